"""What doctor says of failover: facts in, findings out; and what it reads."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from balancer.component import SEVERITIES, Finding, Held
from failover import doctor
from failover.findings import (
    Arp,
    Key,
    Link,
    Manager,
    Peer,
    judge_arp,
    judge_clocks,
    judge_key,
    judge_link,
    judge_managers,
    judge_peers,
)

VIP = "192.0.2.90"
OWN = Held("192.0.2.87", 24, "eth0", True)
LINK = Link("eth0", ("eth0", "lo"), True, (VIP,), (OWN,), None)


def one(findings: object) -> Finding:
    (finding,) = list(findings)  # type: ignore[call-overload]
    assert isinstance(finding, Finding) and finding.severity in SEVERITIES
    subprocess.run(["sh", "-n"], input=finding.fix, text=True, check=True)
    return finding


def test_link() -> None:
    assert list(judge_link(LINK)) == []
    assert "there is no eth0" in one(judge_link(LINK._replace(up=None))).what
    assert one(judge_link(LINK._replace(up=False))).fix == "ip link set eth0 up"
    assert "no IPv6 address" in one(judge_link(LINK._replace(addresses=(VIP, "2001:db8::90")))).what
    active = LINK._replace(active=True)
    assert "is not on eth0" in one(judge_link(active)).what
    assert list(judge_link(active._replace(held=(OWN, Held(VIP, 32, "eth0", False))))) == []
    for held in (Held(VIP, 24, "eth0", True), Held(VIP, 24, "eth1", False)):
        assert one(judge_link(LINK._replace(held=(OWN, held)))).fix == f"ip address delete {VIP}/24 dev {held.device}"


def test_key() -> None:
    assert list(judge_key(Key("/k", "", False))) == []
    assert "not set" in one(judge_key(Key(None, "", False))).what
    assert "Permission denied" in one(judge_key(Key("/k", "Permission denied", False))).what
    assert one(judge_key(Key("/k", "", True))).fix == "chmod o= /k"


@pytest.mark.parametrize(("ignore", "found"), [(0, False), (1, False), (2, True), (3, False), (8, True)])
def test_arp(ignore: int, found: bool) -> None:
    assert bool(list(judge_arp(Arp("eth0", ignore, (VIP,), (OWN,))))) is found


def test_two_interfaces_on_one_network() -> None:
    facts = Arp("eth0", 0, (VIP,), (OWN, Held("192.0.2.77", 24, "eth1", True)))
    assert "same network" in one(judge_arp(facts)).what
    assert list(judge_arp(facts._replace(ignore=1))) == []


def test_peers_clocks_managers() -> None:
    assert list(judge_peers((Peer("192.0.2.88", True),))) == []
    assert one(judge_peers((Peer("192.0.2.88", False),))).severity == "error"
    assert one(judge_peers((Peer("192.0.2.88", None),))).severity == "unknown"
    assert list(judge_clocks((("ns7c1", -9.0),))) == []
    assert "behind ours" in one(judge_clocks((("ns7c1", -60.0),))).what
    manager = Manager("networkd", "eth0", "/usr/lib/systemd/network/10-x.network", "")
    assert "/etc/systemd/network/10-x.network.d" in one(judge_managers((manager,))).fix
    assert one(judge_managers((manager._replace(keep="static"),))), "the address has a lifetime: not static to networkd"
    assert list(judge_managers((manager._replace(keep="yes"),))) == []
    assert "nmcli" in one(judge_managers((manager._replace(program="NetworkManager"),))).fix


def test_who_manages_the_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from what systemd-networkd and NetworkManager leave in /run, and from the .network file with drop-ins."""
    links, devices, network = tmp_path / "links", tmp_path / "devices", tmp_path / "network"
    for folder in (links, devices, network / "10-lo.network.d"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(doctor, "NETWORKD", links)
    monkeypatch.setattr(doctor, "NETWORK_MANAGER", devices)
    monkeypatch.setattr(doctor, "NETWORK_FOLDERS", (str(network),))
    assert list(doctor._managers("lo")) == list(doctor._managers("none0")) == []
    file = network / "10-lo.network"
    (links / "1").write_text(f"ADMIN_STATE=configured\nNETWORK_FILE={file}\n")
    file.write_text("[Match]\nName=lo\n[Network]\nKeepConfiguration=no\n")
    assert list(doctor._managers("lo")) == [Manager("networkd", "lo", str(file), "no")]
    (network / "10-lo.network.d" / "ns7.conf").write_text("[Network]\nKeepConfiguration = yes\n")
    assert list(doctor._managers("lo")) == [Manager("networkd", "lo", str(file), "yes")]
    (links / "1").write_text("ADMIN_STATE=unmanaged\n")
    (devices / "1").write_text("[device]\nmanaged=true\n")
    assert list(doctor._managers("lo")) == [Manager("NetworkManager", "lo", "", "")]
    (devices / "1").write_text("[device]\nmanaged=false\n")
    assert list(doctor._managers("lo")) == []


def test_ping() -> None:
    assert doctor.ping("127.0.0.1") in (True, None)
