"""What a host gets: the .deb, on a clean Debian that systemd runs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers import wire
from tests.helpers.client import ask, load
from tests.helpers.debian import MAKING, Booted, Debian
from tests.helpers.nameserver import NameServer
from tests.helpers.need import require_program
from tests.helpers.netns import Namespace, require_netns
from tests.helpers.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.long, pytest.mark.timeout(3 * MAKING)]
VIP, OWN = "192.0.2.90", "192.0.2.87"
CONFIG = f"""
[[service]]
name = "ns7"
listen = ["{VIP}:53", "{OWN}:53"]
[[service.server]]
name = "one"
address = "SERVER"
[process]
workers = 2
[failover]
interface = "eth0"
virtual_router_id = 7
addresses = ["{VIP}"]
peers = ["{OWN}", "192.0.2.88"]
"""
KEPT = {"worker": 0, "admin": 1 << 10, "alert": 0, "failover": 1 << 12 | 1 << 13}     # capabilities(7)


@dataclass
class Host:
    """A director with the package installed and its configuration in place."""

    tree: Debian
    system: Booted
    network: Namespace
    version: str

    def ask(self, address: str) -> bytes:
        with self.network.entered():
            return ask(address)

    def main(self) -> int:
        return int(self.system.run("systemctl", "show", "ns7", "-p", "MainPID", "--value"))

    def folders(self) -> set[str]:
        """What lies in /usr/lib/ns7."""
        return {path.name for path in (self.tree.root / "usr/lib/ns7").iterdir()}

    def listeners(self) -> str:
        return self.system.run("ss", "-Hlntu")

    def addresses(self) -> str:
        return self.system.run("ip", "-brief", "address", "show", "dev", "eth0")

    def settings(self) -> str:
        """Every sysctl of the network."""
        return self.system.run("sh", "-c", "sysctl -a 2>/dev/null | grep '^net[.]'")


@pytest.fixture(scope="module")
def package() -> Path:
    """Built anew."""
    subprocess.run([ROOT / "dev", "deb"], check=True, timeout=MAKING)
    [built] = (ROOT / "build").glob("ns7_*.deb")
    return built


@pytest.fixture(scope="module")
def host(package: Path) -> Iterator[Host]:
    require_netns()
    require_program("systemd-nspawn", "systemd-container")
    network = Namespace("debian")
    try:
        network.ip_lines(["link add eth0 type veth peer name eth1", "link set eth0 up", "link set eth1 up",
                          f"address add {OWN}/24 dev eth0"])
        with network.entered():
            server = NameServer()
        with server, Debian() as tree:
            tree.install("systemd", "systemd-sysv", "iproute2", "procps")
            shutil.copy(package, tree.root / "root")
            tree.install(f"/root/{package.name}")
            config = tree.root / "etc/ns7/ns7.toml"
            config.write_text(CONFIG.replace("SERVER", server.address))
            with Booted(tree, Path("/run/netns") / network.name) as system:
                yield Host(tree, system, network, package.name.split("_")[1])
    finally:
        network.close()


def test_commands(host: Host) -> None:
    assert host.system.run("ns7", "--version") == f"ns7 {host.version}\n"
    for file in ("/usr/share/doc/ns7/examples/ns7.toml", "/etc/ns7/ns7.toml"):
        assert f"{file}: ok" in host.system.run("ns7", "check", "-c", file)
    assert "stopped" in host.system.run("ns7", "demo", "--seconds", "3", "--port", "5377")


def test_words_of_the_command_line(host: Host) -> None:
    """Completion and manual know the components' commands too."""
    share = host.tree.root / "usr/share"
    for file in ("bash-completion/completions/ns7", "zsh/vendor-completions/_ns7"):
        assert "takeover" in (share / file).read_text()
    page = subprocess.run(["gzip", "-dc", share / "man/man8/ns7.8.gz"], capture_output=True, text=True, check=True)
    assert "takeover" in page.stdout
    host.tree.run("bash", "-n", "/usr/share/bash-completion/completions/ns7")


def test_unit_is_well_and_hard(host: Host) -> None:
    assert host.system.run("systemd-analyze", "verify", "ns7.service") == ""
    told = host.system.run("systemd-analyze", "security", "ns7.service")
    exposure = re.search(r"Overall exposure level for ns7.service: ([\d.]+)", told)
    assert exposure is not None, told
    assert float(exposure[1]) <= 2.5


def test_journald_understands_its_sample(host: Host) -> None:
    sample, place = "/usr/share/doc/ns7/examples/journald.conf", "/etc/systemd/journald.conf.d/ns7.conf"
    host.system.run("install", "-D", sample, place)
    host.system.run("systemctl", "restart", "systemd-journald")
    told = host.system.run("journalctl", "-u", "systemd-journald", "--no-pager")
    assert "ns7.conf" not in told           # where a line that it does not know would be named
    host.system.run("rm", place)


def start(host: Host) -> None:
    host.system.run("systemctl", "start", "ns7")
    wait_for("the virtual address", lambda: VIP in host.addresses())
    assert wire.rcode(host.ask(f"{VIP}:53")) == 0


def test_each_process_keeps_its_own_rights(host: Host) -> None:
    start(host)
    pids = host.system.run("systemctl", "show", "ns7", "-p", "ControlGroup", "--value").strip()
    lines = host.system.run("sh", "-c", f"""
        for pid in $(cat /sys/fs/cgroup/systemd{pids}/cgroup.procs 2>/dev/null || cat /sys/fs/cgroup{pids}/cgroup.procs)
        do echo $(tr '\\0' ' ' < /proc/$pid/cmdline) $(grep -E '^(CapEff|Uid|NoNewPrivs|Seccomp):' /proc/$pid/status)
        done""").splitlines()
    seen = set()
    for line in lines:
        assert re.search(r"NoNewPrivs: 1 Seccomp: 2", line), line
        assert "Uid: 0" not in line
        role = re.search(r"--role (\w+)", line)
        if role is not None:
            assert int(line.split("CapEff: ")[1].split()[0], 16) == KEPT[role[1]], line
            seen.add(role[1])
    assert seen == set(KEPT)


def test_restart_loses_nothing_that_waits(host: Host) -> None:
    """The sockets lie in systemd's store meanwhile; the virtual address goes and comes back."""
    start(host)
    with host.network.entered():
        seen = load(f"{OWN}:53", 200, 4, [(0.5, lambda: host.system.run("systemctl", "restart", "ns7"))], patience=10)
    assert seen.lost == []


def later_version(host: Host, package: Path) -> str:
    """The same package under another version, in the tree; its path there."""
    number = f"{host.version}.1"
    folder = host.tree.root / "root/later"
    subprocess.run(["dpkg-deb", "-R", package, folder], check=True)
    program = folder / "usr/lib/ns7/unpacked"
    [source] = program.glob("lib/python*/site-packages/balancer/__init__.py")
    for path in (folder / "DEBIAN/control", folder / "DEBIAN/postinst", program / "bin/ns7", source):
        path.write_text(path.read_text().replace(host.version, number))
    for old in (source.parent / "__pycache__").glob("__init__.*"):
        old.unlink()
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "-b", folder, f"{folder}.deb"], check=True,
                   stdout=subprocess.DEVNULL)
    shutil.rmtree(folder)
    return "/root/later.deb"


def test_installing_another_version_upgrades_what_runs(host: Host, package: Path) -> None:
    """Not a query is lost, the address stays, and the old folder lives as long as its processes."""
    start(host)
    later, before = later_version(host, package), host.main()
    with host.network.entered():
        seen = load(f"{VIP}:53", 200, 12, [(0.5, lambda: host.system.run("dpkg", "-i", later, seconds=MAKING))],
                    patience=10)
    assert seen.lost == []
    assert host.main() != before
    assert host.system.run("ns7", "--version") == f"ns7 {host.version}.1\n"
    assert host.folders() == {"unpacked", "current", host.version, f"{host.version}.1"}
    host.system.run("dpkg", "-i", later, seconds=MAKING)
    wait_for("the old version's folder is gone once nobody runs from it", lambda: (
        host.system.run("dpkg-reconfigure", "ns7", seconds=MAKING)
        and host.folders() == {"unpacked", "current", f"{host.version}.1"}), every=2)


def test_stop_leaves_nothing(host: Host) -> None:
    """No address, no listener, no process, no setting of the kernel: another director may take this host's place."""
    host.system.run("systemctl", "stop", "ns7")
    before = host.addresses(), host.listeners(), host.settings()
    assert VIP not in before[0]
    start(host)
    host.system.run("systemctl", "stop", "ns7")
    assert (host.addresses(), host.listeners(), host.settings()) == before
    assert host.system.run("sh", "-c", "pgrep -f '[/]usr/lib/ns7/' || true").strip() == ""


def test_stop_after_an_upgrade_is_in_order_too(host: Host) -> None:
    """The main process is not systemd's child then, and must not be killed for that."""
    start(host)
    before = host.system.run("journalctl", "-n", "0", "--show-cursor").split("-- cursor: ")[1]
    assert "has taken over" in host.system.run("ns7", "upgrade")
    assert wire.rcode(host.ask(f"{VIP}:53")) == 0
    host.system.run("systemctl", "stop", "ns7")
    told = host.system.run("journalctl", "-u", "ns7", "--no-pager", f"--after-cursor={before.strip()}")
    assert "nobody took over" in told           # failover let go of the address by itself
    assert "SIGKILL" not in told
    assert host.system.run("systemctl", "show", "ns7", "-p", "Result", "--value").strip() == "success"


def test_death_after_an_upgrade_is_noticed(host: Host) -> None:
    """systemd starts ns7 again, though it has not started the process that died."""
    start(host)
    old = host.main()
    host.system.run("ns7", "upgrade")
    new = host.main()
    wait_for("the old supervisor has ended", lambda: host.system.run(
        "sh", "-c", f"kill -0 {old} 2>/dev/null && echo alive || true") == "", 60, every=0.5)
    host.system.run("kill", "-KILL", str(new))
    wait_for("another main process", lambda: host.main() not in (0, new))
    start(host)


def test_removal_leaves_the_configuration(host: Host) -> None:
    start(host)
    host.system.run("apt-get", "purge", "-y", "ns7", seconds=MAKING)
    assert VIP not in host.addresses()
    left = host.system.run("find", "/usr", "/etc", "/var/lib", "/run", "-xdev", "-path", "*ns7*").split()
    assert left == ["/etc/ns7", "/etc/ns7/ns7.toml"]
