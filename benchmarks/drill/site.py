"""The hosts of the drill, as their operator has set them up, and what may happen to them.

A host is a network namespace, and every program on it runs in a mount namespace with folders of the host's own at
/run, /etc/bind, /var/lib/bind and /var/cache/bind. So the configuration is one file with ns7's own paths in it, and
commands find their socket as they do on a real host.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import dns.exception
import dns.flags
import dns.message
import dns.rdatatype

from benchmarks.lab import ROOT, Lab, LabError, Process
from tests.helpers import processes
from tests.helpers.network import Network
from tests.helpers.waiting import wait_for

HOSTS = {"client": 1, "mail": 25, "ns7c0": 87, "ns7c1": 88, "ns7c2": 89}
NODES = ("ns7c0", "ns7c1", "ns7c2")
DIRECTORS, SERVERS = ("ns7c0", "ns7c1"), ("ns7c1", "ns7c2")
VIP = "192.0.2.90"
MAIL_PORT = 25
ZONES = ("tt.example", "customer1.example", "customer2.example", "customer3.example", "customer4.example")
ZONE = ZONES[0]
NAMES = 200                 # in each zone
STARTING = 40.0
OWN = ("run", "etc/bind", "var/lib/bind", "var/cache/bind")
ENTER = f'for each in {" ".join(OWN)}; do mount --bind "$0/$each" "/$each"; done; exec "$@"'

# What differs from the defaults differs for the drill's sake: what happens here in minutes takes months elsewhere.
CONFIG = """\
[[service]]
name = "ns7"
listen = ["192.0.2.90:53"]
scheduler = "wlc"
primary = "ns7c1"
[service.admit]
transfer = ["192.0.2.0/24"]

[[service.server]]
name = "ns7c1"
address = "192.0.2.88:53"

[[service.server]]
name = "ns7c2"
address = "192.0.2.89:53"

[process]
workers = 0
state_dir = "/var/cache/bind/ns7-state"     # these hosts have no /var/lib of their own
[health]
zones = ["tt.example"]
master = "ns7c1"
stale_after = "3s"                          # the drill does not wait for 5 minutes
flap_period = "0s"                          # each fault by itself
[alerts]
mail_to = ["linuxstaff@tt.example"]
smtp = "192.0.2.25:25"
flap_period = "5s"
[failover]
interface = "eth0"
virtual_router_id = 7
interval = "300ms"
addresses = ["192.0.2.90"]
peers = ["192.0.2.87", "192.0.2.88"]
key_file = "{keys}/failover.key"
[nodes.ns7c0.failover]
priority = 200
[nodes.ns7c1]
[nodes.ns7c2]
roles = ["sync"]
[sync]
publisher = "192.0.2.88"
pullers = ["192.0.2.89:8053"]
tsig_key_file = "{keys}/sync.key"
"""

NAMED_CONF = """\
options {{
    directory "/var/cache/bind";
    listen-on {{ 127.0.0.1; {address}; }};
    listen-on-v6 {{ none; }};
    automatic-interface-scan no;
    recursion no;
    dnssec-validation no;
    empty-zones-enable no;
    notify no;
    answer-cookie no;
}};
"""
SECRET = "ZHJpbGwgb25seSwgYW5kIG5vIHNlY3JldCBhdCBhbGwhISE="


def zone_text(zone: str, serial: int) -> str:
    head = f"$ORIGIN {zone}.\n$TTL 300\n@ SOA ns hostmaster {serial} 3600 900 604800 300\n@ NS ns\nns A 192.0.2.90\n"
    return head + "".join(f"h{number} A 198.51.100.{number % 250}\n" for number in range(NAMES))


class Site:
    """All hosts. `start` brings everything up; a context manager that leaves nothing behind."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.network = Network(HOSTS)
        self.keys = lab.folder / "keys"
        self.config = lab.folder / "ns7.toml"
        self.questions = lab.folder / "questions"
        self.serials = dict.fromkeys(ZONES, 0)  # as edited
        self._running: dict[tuple[str, str], Process] = {}
        self._write()

    def _write(self) -> None:
        self.keys.mkdir()
        for name, text in (("failover.key", "the drill's, and no secret at all\n"),
                           ("sync.key", f'key "sync" {{ algorithm hmac-sha256; secret "{SECRET}"; }};\n')):
            (self.keys / name).write_text(text)
            (self.keys / name).chmod(0o600)
        self.config.write_text(CONFIG.format(keys=self.keys))
        self.questions.write_text("".join(f"h{number}.{zone} A\n" for number in range(NAMES) for zone in ZONES))
        for host in NODES:
            for each in OWN:
                self.path(host, each).mkdir(parents=True)
            self.path(host, "run/named").mkdir()
        for host in SERVERS:
            (self.path(host, "etc/bind/rndc.key")).write_text(
                f'key "rndc-key" {{ algorithm hmac-sha256; secret "{SECRET}"; }};\n')
            text = NAMED_CONF.format(address=self.network[host].address4)
            if host == "ns7c1":
                for zone in ZONES:
                    self.edit(zone)
                text += "".join(f'zone "{zone}" {{ type primary; file "/etc/bind/{zone}"; }};\n' for zone in ZONES)
            else:
                text += 'include "/var/lib/bind/ns7/current/named.conf";\n'
            self.path(host, "etc/bind/named.conf").write_text(text)

    # Hosts and programs

    def path(self, host: str, name: str) -> Path:
        """Where a file of the host really is."""
        return self.lab.folder / host / name

    def prefix(self, host: str) -> list[str]:
        """What to write before a command so that it runs on the host."""
        own = ["sh", "-ec", ENTER, str(self.lab.folder / host)] if host in NODES else []
        return [*self.network[host].prefix, *own]

    def launch(self, host: str, program: str, *argv: str) -> Process:
        """Run it on the host; only from the thread that outlives it, for the kernel ends it with that."""
        process = self.lab.start(f"{host}-{program}", [*self.prefix(host), *argv], {"NS7_NODE": host})
        self._running[host, program] = process
        return process

    def kill(self, host: str, program: str) -> float:
        """SIGKILL for all its processes; when (seconds since 1970)."""
        process = self._running.pop((host, program))
        members = processes.tree(process.pid)
        at = time.time()
        processes.kill(members)
        self.lab.stop(process)
        return at

    def log(self, host: str, program: str) -> str:
        return (self.lab.folder / f"{host}-{program}.log").read_text(errors="replace")

    def start_ns7(self, host: str) -> None:
        """ns7 on this host; ready a moment later."""
        self.launch(host, "ns7", sys.executable, "-m", "balancer", "run", "-c", str(self.config))

    def start_named(self, host: str) -> None:
        self.launch(host, "named", "named", "-g", "-c", "/etc/bind/named.conf")

    def start_rsyncd(self) -> None:
        """What `ns7 sample-config rsyncd` prints, but for the user, who is root here."""
        text = self.command("ns7c1", "sample-config", "rsyncd", "-c", str(self.config)).stdout
        conf = self.lab.folder / "rsyncd.conf"
        conf.write_text(text.replace("uid = ns7", "uid = root").replace("gid = ns7", "gid = root"))
        self.launch("ns7c1", "rsyncd", "rsync", "--daemon", "--no-detach", f"--config={conf}")

    def command(self, host: str, *words: str) -> subprocess.CompletedProcess[str]:
        """`ns7 words…` on this host, to its end."""
        return subprocess.run([*self.prefix(host), sys.executable, "-m", "balancer", *words], cwd=ROOT, text=True,
                              capture_output=True, timeout=60, check=False, env={**os.environ, "NS7_NODE": host})

    def start_dnsperf(self, qps: float) -> Process:
        """Load beside the one-shot client, until it is interrupted."""
        return self.launch("client", "dnsperf", "dnsperf", "-s", VIP, "-d", str(self.questions), "-c", "20", "-T", "1",
                           "-q", "100", "-t", "2", "-Q", f"{qps:g}", "-l", "3600")

    def start(self) -> None:
        """Everything up, in the order of docs/sync.md; the zones published, the better director active."""
        self.start_named("ns7c1")
        for host in NODES:
            self.start_ns7(host)
        self.start_rsyncd()
        include = self.path("ns7c2", "var/lib/bind/ns7/current/named.conf")
        self._wait("the puller's store", include.exists)
        self.start_named("ns7c2")
        for host in SERVERS:
            self._wait(f"named on {host}", lambda host=host: self.ask(host) is not None)    # type: ignore[misc]
        self._wait("ns7 on all hosts", lambda: all("ns7 ready" in self.log(host, "ns7") for host in NODES))
        self._wait("sync at work", lambda: self.status("ns7c1").get("components", {}).get("sync"))
        done = self.command("ns7c1", "refresh", "--full", "--wait")
        if done.returncode:
            raise LabError(f"ns7 refresh: {done.stdout}{done.stderr}")
        self._wait("the zones on ns7c2", self.is_published)
        self._wait("ns7c0 active and well", self.is_well)

    def _wait(self, what: str, probe: Callable[[], object]) -> None:
        def look() -> object:
            for process in self._running.values():
                if not process.alive():
                    raise LabError(f"{process.name} has ended: {process.last_words()}")
            return probe()

        try:
            wait_for(what, look, STARTING, 0.05)
        except AssertionError as error:
            raise LabError(str(error)) from None

    # What is asked

    def status(self, host: str) -> dict[str, Any]:
        """`ns7 status` of this host; {} while nobody answers."""
        with contextlib.suppress(OSError, ValueError, KeyError), socket.socket(socket.AF_UNIX) as one:
            one.settimeout(2)
            one.connect(str(self.path(host, "run/ns7/control.sock")))
            one.sendall(b'{"verb": "status"}\n')
            line = b""
            while not line.endswith(b"\n") and (piece := one.recv(65536)):
                line += piece
            return dict(json.loads(line)["result"])
        return {}

    def is_well(self) -> bool:
        """ns7c0 is active, ns7c1 stands by, both see both servers up."""
        found = [self.status(host) for host in DIRECTORS]
        return [one.get("standing") for one in found] == ["active", "standby"] and all(
            server["state"] == "up" for one in found for server in one["services"][0]["servers"])

    def ask(self, host: str, zone: str = ZONE) -> dns.message.Message | None:
        """The answer of a host's own named to the SOA of a zone, asked from the client; None when there is none."""
        with self.network["client"].socket(socket.AF_INET, socket.SOCK_DGRAM) as one, \
                contextlib.suppress(OSError, dns.exception.DNSException):
            one.settimeout(0.5)
            one.connect((self.network[host].address4, 53))
            one.send(dns.message.make_query(zone, "SOA", flags=0).to_wire())
            return dns.message.from_wire(one.recv(4096))
        return None

    def serial_of(self, host: str) -> int | None:
        """Of ZONE, as this host's named serves it."""
        answer = self.ask(host)
        if answer is None or not answer.flags & dns.flags.AA:
            return None
        return next((int(found[0].serial) for found in answer.answer if found.rdtype == dns.rdatatype.SOA), None)

    def is_published(self) -> bool:
        """Both servers serve ZONE as it was edited."""
        return all(self.serial_of(host) == self.serials[ZONE] for host in SERVERS)

    def mac(self, host: str) -> bytes:
        """Of the host's link."""
        return bytes.fromhex(self.network[host].run("cat", "/sys/class/net/eth0/address").strip().replace(":", ""))

    # What is done

    def edit(self, zone: str = ZONE) -> None:
        """A new serial, on ns7c1, where zones are edited."""
        self.serials[zone] += 1
        self.path("ns7c1", f"etc/bind/{zone}").write_text(zone_text(zone, self.serials[zone]))

    def start_refresh(self) -> None:
        """`ns7 refresh` where zones are edited, not waited for."""
        self.lab.start("refresh", [*self.prefix("ns7c1"), sys.executable, "-m", "balancer", "refresh"])

    def close(self) -> None:
        self.network.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self._running.values():
            processes.kill(processes.tree(process.pid))     # nobody needs their goodbyes
        self.close()
