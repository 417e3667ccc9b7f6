"""`ns7 doctor` on hosts that are wrong, and on the same hosts when they are right; its commands mend them.

Both servers run BIND with what `ns7 sample-config named` prints, so the sample itself is under test: nothing is found.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from balancer.component import Finding
from balancer.config import load
from balancer.config.named import sample
from balancer.doctor import examine
from balancer.errors import ControlError
from tests.helpers import processes, wire
from tests.helpers.client import Client
from tests.helpers.need import require_program
from tests.helpers.netns import require_netns
from tests.helpers.network import DEVICE, Host, Network
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.net

HOSTS = {"client": 1, "ns7c0": 87, "ns7c1": 88, "ns7c2": 89}
VIP = "192.0.2.90"
ZONE = "doctor.example"
ZONE_TEXT = f"""$ORIGIN {ZONE}.
$TTL 300
@ SOA ns7 hostmaster 1 3600 900 604800 300
@ NS ns7
ns7 A {VIP}
mail A 192.0.2.25
"""
CONFIG = """[[service]]
name = "ns7"
listen = ["{vip}:53"]
[[service.server]]
name = "ns7c1"
address = "192.0.2.88:53"
[[service.server]]
name = "ns7c2"
address = "192.0.2.89:53"
[process]
state_dir = "{folder}/state"
[admin]
socket = "{folder}/ns7.sock"
listen = []
[health]
zones = ["{zone}"]
[failover]
interface = "{device}"
virtual_router_id = 7
addresses = ["{vip}"]
peers = ["192.0.2.87", "192.0.2.88"]
key_file = "{folder}/failover.key"
"""
RNDC = """key "rndc" {{ algorithm hmac-sha256; secret "c2NlbmFyaW8gdGVzdHMgb25seSwgbm90IGEgc2VjcmV0IQ=="; }};
{rest}"""


class Bind:
    """named on a host, its options those of the sample."""

    def __init__(self, host: Host, folder: Path, config: Path, node: str) -> None:
        self.host, self.folder = host, folder
        self.program = require_program("named", "bind9")
        folder.mkdir()
        (folder / "zone").write_text(ZONE_TEXT)
        self.right = sample(load(config, node)).replace('"/var/cache/bind";', f"""\
"{folder}"; pid-file "{folder}/pid"; session-keyfile "{folder}/session.key"; managed-keys-directory "{folder}";""")
        self.options = folder / "named.conf.options"
        client = 'options { default-key "rndc"; default-server 127.0.0.1; };'
        (folder / "rndc.conf").write_text(RNDC.format(rest=client))
        (folder / "named.conf").write_text(RNDC.format(rest=f"""
controls {{ inet 127.0.0.1 allow {{ any; }} keys {{ "rndc"; }}; }};
include "{self.options}";
zone "{ZONE}" {{ type primary; file "zone"; }};
"""))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, options: str = "", under: tuple[str, ...] = ()) -> None:
        """With the sample, or other options."""
        self.options.write_text(options or self.right)
        with (self.folder / "log").open("ab") as log:
            self.process = self.host.popen(*under, self.program, "-g", "-n", "1", "-c", f"{self.folder}/named.conf",
                                           stdout=log, stderr=log)
        wait_for("rndc", lambda: self.rndc("status"), 20)

    def rndc(self, *words: str) -> bool:
        return subprocess.run([*self.host.prefix, "rndc", "-c", f"{self.folder}/rndc.conf", *words],
                              capture_output=True, check=False).returncode == 0

    def change(self, old: str, new: str) -> None:
        """Other words in the options, in force."""
        text = self.options.read_text()
        assert old in text
        self.options.write_text(text.replace(old, new))
        assert self.rndc("reconfig")

    def restore(self) -> None:
        self.options.write_text(self.right)
        assert self.rndc("reconfig")

    def mend(self, finding: Finding) -> None:
        """What the finding says, where named's files are here."""
        fix = finding.fix.replace("/etc/bind/named.conf.options", str(self.options))
        fix = fix.replace("rndc reconfig", f"rndc -c {self.folder}/rndc.conf reconfig")
        self.host.run("sh", "-c", fix)

    def stop(self) -> None:
        if self.process is not None:
            processes.kill(processes.tree(self.process.pid))
            self.process.wait()
            self.process = None


class Field:
    """The director under examination is ns7c0."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network, self.folder = network, folder
        self.here = network["ns7c0"]
        self.config = folder / "ns7.toml"
        (folder / "failover.key").write_text("for these tests only, and no secret")
        (folder / "failover.key").chmod(0o600)
        self.write()
        self.here.sysctl("net.ipv4.tcp_migrate_req", 1)
        self.servers = [Bind(network[name], folder / name, self.config, name) for name in ("ns7c1", "ns7c2")]

    def write(self, *changes: tuple[str, str], more: str = "") -> None:
        """The file of the cluster, with changes."""
        text = CONFIG.format(vip=VIP, folder=self.folder, zone=ZONE, device=DEVICE)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        self.config.write_text(text + more)

    def findings(self, check: str = "", host: str = "ns7c0") -> list[Finding]:
        """Of one check, or all; no ns7 runs."""
        def nobody(verb: str) -> Any:
            raise ControlError("none runs")

        with self.network[host].entered():
            return [result.finding for result in examine(load(self.config, host), nobody)
                    if check in ("", result.check)]

    def one(self, check: str, *words: str) -> Finding:
        """The one finding of a check."""
        found = self.findings(check)
        assert len(found) == 1, found
        for word in words:
            assert word in found[0].what, found
        return found[0]

    def mend(self, finding: Finding) -> None:
        self.here.run("sh", "-c", finding.fix)


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    require_netns()
    with Network(HOSTS) as network:
        one = Field(network, tmp_path_factory.mktemp("doctor"))
        for server in one.servers:
            server.start()
        yield one


@pytest.fixture(autouse=True)
def _afterwards(field: Field) -> Iterator[None]:
    yield
    field.write()


def test_nothing_is_found_where_all_is_right(field: Field) -> None:
    assert field.findings() == []
    with field.here.entered(), Client("192.0.2.88:53") as client:
        assert wire.rcode(client.ask(wire.query(f"ns7.{ZONE}"))) == wire.RCODES["NOERROR"]


def test_address_that_is_not_here(field: Field) -> None:
    field.write((f'listen = ["{VIP}:53"]', f'listen = ["{VIP}:53", "192.0.2.95:53"]'))
    finding = field.one("address", "service[0].listen", "192.0.2.95")
    assert finding.severity == "error"
    field.mend(finding)
    assert field.findings() == []
    field.here.ip("address", "delete", "192.0.2.95/32", "dev", DEVICE)


def test_address_left_on_lo(field: Field) -> None:
    field.here.add_address(f"{VIP}/32")
    finding = field.one("lvs", VIP, "LVS-DR")
    field.mend(finding)
    assert field.findings() == []


def test_rp_filter(field: Field) -> None:
    here = field.here
    here.sysctl(f"net.ipv4.conf.{DEVICE}.rp_filter", 1)
    assert field.findings() == [], "answers leave as queries come"
    here.ip_lines(["link add side0 type veth peer name side1", "link set side0 up", "link set side1 up",
                   "address add 198.18.0.1/24 dev side0", "route add default via 198.18.0.2 dev side0"])
    finding = field.one("rp_filter", DEVICE, "side0")
    field.mend(finding)
    assert field.findings() == []
    here.ip("link", "delete", "side0")


def test_port_that_is_taken(field: Field) -> None:
    code = "import socket, time; s = socket.socket(2, 2); s.bind(('0.0.0.0', 53)); print(flush=True); time.sleep(99)"
    program = field.here.popen(sys.executable, "-c", code, stdout=subprocess.PIPE)
    assert program.stdout is not None and program.stdout.readline()
    finding = field.one("port", str(program.pid), "0.0.0.0:53/udp")
    field.mend(finding)
    program.wait(10)
    assert field.findings() == []


def test_arp_that_is_not_answered(field: Field) -> None:
    field.here.sysctl(f"net.ipv4.conf.{DEVICE}.arp_ignore", 1)
    assert field.findings() == []
    field.here.sysctl(f"net.ipv4.conf.{DEVICE}.arp_ignore", 2)
    field.here.add_address(f"{VIP}/32", DEVICE)
    client = field.network["client"]
    asked = [*client.prefix, "ping", "-c", "1", "-W", "1", VIP]
    assert subprocess.run(asked, capture_output=True, check=False).returncode != 0, "the reason for this check"
    field.here.ip("address", "delete", f"{VIP}/32", "dev", DEVICE)
    field.mend(field.one("failover.arp", "arp_ignore is 2"))
    assert field.findings() == []
    for name in (DEVICE, "all"):
        field.here.sysctl(f"net.ipv4.conf.{name}.arp_ignore", 0)


def test_recursion_and_transfers(field: Field) -> None:
    server = field.servers[1]
    server.change("recursion no;", "recursion yes; allow-recursion { any; };")
    server.change("allow-query-cache { none; };", "")
    server.change("allow-transfer { none; };", "")
    found = field.findings("health.servers")
    assert [finding.what.partition(":")[0] for finding in found] == [
        "recursion is open on ns7c2", "transfers are open on ns7c2"]
    for finding in found:
        server.mend(finding)
    assert field.findings() == []
    server.restore()


def test_cookies(field: Field) -> None:
    one, other = field.servers
    secrets = ["0123456789abcdef" * 2, "fedcba9876543210" * 2]
    one.change("answer-cookie no;", f'answer-cookie yes; cookie-secret "{secrets[0]}";')
    finding = field.one("health.cookies", "ns7c2 answers without")
    other.change("answer-cookie no;", f'answer-cookie yes; cookie-secret "{secrets[1]}";')
    finding = field.one("health.cookies", "ns7c1 and ns7c2 have different cookie secrets")
    other.change(secrets[1], secrets[0])
    assert field.findings() == [], "the same secret on both"
    other.change(secrets[0], secrets[1])
    for server in field.servers:
        server.mend(finding)
    assert field.findings() == []
    for server in field.servers:
        server.restore()
