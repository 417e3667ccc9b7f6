"""`ns7 doctor` on hosts that are wrong, and on the same hosts when they are right; its commands mend them.

Both servers run BIND with what `ns7 sample-config named` prints, so the sample itself is under test: nothing is found.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
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
from tests.helpers.cluster import Cluster
from tests.helpers.daemon import COMMAND, ROOT, run_command
from tests.helpers.nameserver import NameServer
from tests.helpers.need import missing, require_program
from tests.helpers.netns import require_netns
from tests.helpers.network import DEVICE, Host, Network
from tests.helpers.skew import ahead
from tests.helpers.tcp import TcpServer
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

    def start(self, *, options: str = "", env: Mapping[str, str] | None = None) -> None:
        """With the sample, or other options."""
        self.options.write_text(options or self.right)
        with (self.folder / "log").open("ab") as log:
            self.process = self.host.popen(self.program, "-g", "-n", "1", "-c", f"{self.folder}/named.conf",
                                           stdout=log, stderr=log, env={**os.environ, **(env or {})})
        wait_for("named answers", self._answers, 20)

    def _answers(self) -> bool:
        with self.host.entered(), Client(f"{self.host.address4}:53") as client, contextlib.suppress(
                AssertionError, ConnectionRefusedError):
            return wire.rcode(client.ask(wire.query(ZONE, "SOA"), 0.5)) == wire.RCODES["NOERROR"]
        return False

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


def test_named_beside_us(field: Field, tmp_path: Path) -> None:
    """BIND on the director's host, before the address comes and after."""
    here = field.here
    bind = Bind(here, tmp_path / "named", field.config, "ns7c0")
    bind.start(options=bind.right.replace("listen-on { 127.0.0.1; 192.0.2.88; };", "").replace(
        "automatic-interface-scan no;", ""))
    finding = field.one("named", f"would take {VIP}:53 as soon as the address is here")
    here.add_address(f"{VIP}/24", DEVICE)
    here.ip("address", "change", f"{VIP}/24", "dev", DEVICE, "valid_lft", "60", "preferred_lft", "60")
    with here.entered():
        wait_for("named holds it", lambda: "holds" in field.one("named").what, 20)
    assert "automatic-interface-scan no" in finding.fix
    bind.mend(finding)
    assert field.findings() == []
    here.ip("address", "delete", f"{VIP}/24", "dev", DEVICE)
    bind.stop()


def test_address_that_somebody_else_added(field: Field) -> None:
    field.here.add_address(f"{VIP}/24", DEVICE)
    field.mend(field.one("failover.interface", VIP, "for good"))
    assert field.findings() == []


@pytest.mark.long
def test_peer_that_is_cut_off(field: Field) -> None:
    """It is a server too."""
    field.network.cut("ns7c1")
    begun = time.monotonic()
    found = field.findings()
    assert time.monotonic() - begun < 4.6, "nothing waits longer than it may"
    assert {finding.what for finding in found} == {
        "192.0.2.88 (failover.peers) cannot be reached",
        "ns7c1 at 192.0.2.88:53 does not answer over UDP (no answer) and TCP (no answer)"}
    field.network.mend("ns7c1")
    wait_for("it is back", lambda: field.findings() == [])


def test_connection_tracking(field: Field) -> None:
    rules = "add table inet wall; add chain inet wall in { type filter hook input priority 0; }; "
    field.here.run("nft", rules + "add rule inet wall in ct state established accept")
    field.mend(field.one("conntrack", "connection tracking is on", "UDP port 53"))
    assert field.findings() == []
    field.here.run("nft", "flush ruleset")
    assert field.findings() == [], "entries of before live on"


@pytest.mark.long
@pytest.mark.long
def test_clock_of_a_server(field: Field, tmp_path: Path) -> None:
    """BIND tells its time without a key."""
    server = field.servers[1]
    server.stop()
    server.start(env=ahead(tmp_path, 400))
    finding = field.one("health.clock", "the clock of ns7c2 is 400 s ahead of ours")
    assert finding.severity == "error"
    server.stop()
    server.start()
    assert field.findings() == []


RUBBISH = [b"", b"\0", b"\xff" * 512, b"\0" * 12, b"\0\0\x80\0" + b"\xff" * 8 + b"\xc0\x0c" * 40]


def test_servers_that_say_rubbish(field: Field) -> None:
    """Their answers count as none, and nothing else is kept from being looked at."""
    host = field.network["client"]
    with contextlib.ExitStack() as stack:
        with host.entered():
            said = itertools.cycle(RUBBISH)
            stack.enter_context(NameServer(lambda received: [received.data[:2] + next(said)], "192.0.2.1", 53))
            stack.enter_context(TcpServer(
                lambda asked: asked.connection.socket.sendall(b"\0\x05rubbish"), "192.0.2.1", 53))
        field.write(('address = "192.0.2.89:53"', 'address = "192.0.2.1:53"'))
        found = field.findings()
        assert [finding.what.partition(" over ")[0] for finding in found] == ["ns7c2 at 192.0.2.1:53 does not answer"]


def run_doctor(field: Field, *prefix: str) -> tuple[int, list[dict[str, str]]]:
    """The command: its exit code and its findings."""
    done = run_command("doctor", "-c", str(field.config), "--node", "ns7c0", "--json",
                       prefix=[*field.here.prefix, *prefix])
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.long
def test_the_command(field: Field) -> None:
    """As a user without rights: what is missing and what cannot be seen is counted, and said."""
    field.write(("[process]", '[process]\nudp_buffer = "1GiB"'))
    code, found = run_doctor(field, "setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all")
    assert [each["check"] for each in found] == ["rights", "failover.peers", "buffers"]
    assert code == 3 and found[1]["severity"] == "unknown"
    assert set(found[0]) == {"check", "what", "why", "fix", "severity"}


def test_a_fix_names_the_file_that_was_asked_about(field: Field) -> None:
    field.write((f'interface = "{DEVICE}"', 'interface = "elsewhere0"'))
    _, found = run_doctor(field)
    (finding,) = [each for each in found if each["what"].startswith("failover.interface")]
    field.here.run("sh", "-c", finding["fix"])
    assert f'interface = "{DEVICE}"' in field.config.read_text() and run_doctor(field)[0] == 0


@pytest.mark.long
def test_mail_server_behind_ourselves(field: Field) -> None:
    """A resolver that is ours; then a name whose zone only we serve; then an entry in /etc/hosts."""
    folder = Path("/etc/netns", field.here.name)
    folder.mkdir(parents=True)
    alerts = f'\n[alerts]\nmail_to = ["a@{ZONE}"]\nsmtp = "mail.{ZONE}:25"\n'
    try:
        field.write(more=alerts)
        (folder / "hosts").write_text("127.0.0.1 localhost\n")
        (folder / "resolv.conf").write_text(f"nameserver {VIP}\noptions timeout:1 attempts:1\n")
        assert [each["check"] for each in run_doctor(field)[1]] == ["mail"]
        (folder / "resolv.conf").write_text("nameserver 192.0.2.88\n")
        code, (finding,) = run_doctor(field)
        assert code == 1 and f"the zone {ZONE} of mail.{ZONE} is served by ns7.{ZONE} alone" in finding["what"]
        field.here.run("sh", "-c", finding["fix"])
        assert (folder / "hosts").read_text().endswith(f"192.0.2.25 mail.{ZONE}\n")
        assert run_doctor(field)[0] == 0
    finally:
        shutil.rmtree(folder)


NETWORKD = """set -e
mount --make-rprivate /
mount -o remount,bind,ro /sys       # without udev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /etc/systemd/network
mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp /run/dbus
chown -R systemd-network:systemd-network /run/systemd/netif
printf '[Match]\nName={device}\n[Network]\nAddress=192.0.2.87/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n' \
    > /etc/systemd/network/10-test.network
ip address flush dev {device}
dbus-daemon --system --fork --nopidfile
{networkd} >&2 &
while ! grep -qs ADMIN_STATE=configured /run/systemd/netif/links/*; do sleep 0.05; done
reload() {{
    ip address replace {vip}/32 dev {device} valid_lft 60 preferred_lft 60
    networkctl reconfigure {device} >&2
    sleep 0.5
    ip -o address show {device} | grep -c {vip} || true
}}
reload
{doctor} > {folder}/found || true
cat {folder}/found
sh -c "$({python} -c 'import json, sys; print(json.load(open(sys.argv[1]))[0]["fix"])' {folder}/found)" >&2
reload
{doctor}
kill $!
"""


@pytest.mark.long
def test_networkd_removes_the_address(field: Field, tmp_path: Path) -> None:
    """The real one: it does, doctor says so, and what doctor says ends it."""
    networkd = Path("/lib/systemd/systemd-networkd")
    if not networkd.exists():
        missing("systemd-networkd is not installed (Debian: systemd)")
    require_program("dbus-daemon", "dbus-daemon")
    doctor = shlex.join([*COMMAND, "doctor", "-c", str(field.config), "--node", "ns7c0", "--json"])
    script = NETWORKD.format(device=DEVICE, vip=VIP, networkd=networkd, doctor=doctor, folder=tmp_path,
                             python=sys.executable)
    alone = ["unshare", "-m", "-p", "-f", "--kill-child", "--mount-proc"]
    done = subprocess.run([*field.here.prefix, *alone, "bash", "-c", script], cwd=ROOT, capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    gone, found, kept, after = done.stdout.splitlines()
    assert (gone, kept) == ("0", "1"), done.stderr
    assert [each["check"] for each in json.loads(found)] == ["failover.managers"]
    assert json.loads(after) == []
    field.here.ip("address", "flush", "dev", DEVICE)
    field.here.configure()


@pytest.mark.long
def test_directors_that_run(tmp_path: Path) -> None:
    """What is ours is known as ours, and the other director's clock is seen."""
    with Cluster(tmp_path, peers=True) as cluster:
        cluster.serve("ns7c1")
        cluster.serve("ns7c2")
        one, other = cluster.director("ns7c0"), cluster.director("ns7c1", env=ahead(tmp_path, 60))
        cluster.wait_holder("ns7c0")
        wait_for("both hear each other", lambda: "skew" in str(cluster.state(one)))

        def found() -> dict[str, str]:
            done = run_command("doctor", "-c", str(one.config), "--node", "ns7c0", "--json",
                               prefix=cluster.network["ns7c0"].prefix)
            return {each["check"]: each["what"] for each in json.loads(done.stdout)}

        seen = found()
        assert "ns7c1 is 60 s ahead of ours" in seen.pop("failover.clock")
        # That cluster's BIND is no sample: its cookies' secrets are its own, and [health] names no zone there.
        assert set(seen) == {"health.cookies", "health.servers", "tcp"}
        other.stop()
        wait_for("it is not heard any more", lambda: "failover.clock" not in found(), 30)
        one.stop()
