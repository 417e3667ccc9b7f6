"""Two real named, a real rsyncd between their stores, and the settings of sync for both: publisher and puller.

Everything is on loopback ports and in one folder; ended by pid.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

from sync.config import Sync
from sync.samples import rsyncd
from sync.store import Store
from tests.helpers import processes
from tests.helpers.daemon import Balancer, run_command
from tests.helpers.nameconf import at, named_options
from tests.helpers.need import require_program
from tests.helpers.ports import free_port
from tests.helpers.waiting import PATIENCE, wait_for

SECRET = "c3luYyBzY2VuYXJpb3Mgb25seSwgbm90IGEgc2VjcmV0IQ=="
KEY = f'key "sync" {{ algorithm hmac-sha256; secret "{SECRET}"; }};\n'
HOST = "127.0.0.1"
LONGEST = 320.0     # seconds for a command: more than it waits itself


def zone_text(name: str, serial: int, records: int = 20, more: str = "") -> str:
    """A zone with so many A records beside its SOA and NS; h0, h1, … under it."""
    head = f"$ORIGIN {name}.\n$TTL 300\n@ SOA ns hostmaster {serial} 3600 900 604800 300\n@ NS ns\nns A 192.0.2.1\n"
    return head + "".join(f"h{number} A 192.0.2.{number % 250}\n" for number in range(records)) + more


class NameServer:
    """One named with zones in files, as an operator has them: `file` relative to `directory`, or absolute."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.control = free_port(HOST), free_port(HOST)
        self.conf, self.log = folder / "named.conf", folder / "named.log"
        (folder / "zones").mkdir(parents=True)
        (folder / "rndc.key").write_text(f'key "rndc" {{ algorithm hmac-sha256; secret "{SECRET}"; }};\n')
        self.more = ""                      # further statements
        self.zones: dict[str, str] = {}     # name → its statement
        self._process: subprocess.Popen[bytes] | None = None
        self.write_conf()

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def rndc(self) -> list[str]:
        return [require_program("rndc", "bind9-utils"), "-s", HOST, "-p", str(self.control), "-k",
                f"{self.folder}/rndc.key"]

    def write_conf(self) -> None:
        control = (f'key "rndc" {{ algorithm hmac-sha256; secret "{SECRET}"; }};\n'
                   f'controls {{ inet {HOST} port {self.control} allow {{ {HOST}; }} keys {{ "rndc"; }}; }};\n')
        self.conf.write_text(named_options(self.folder, at(HOST, self.port)) + control + self.more
                             + "".join(self.zones.values()))

    def file(self, name: str) -> Path:
        return self.folder / "zones" / f"{name}.zone"

    def add(self, name: str, serial: int = 1, records: int = 20, absolute: bool = False, options: str = "") -> None:
        """A zone: its file and its statement."""
        self.file(name).write_text(zone_text(name, serial, records))
        file = self.file(name) if absolute else f"zones/{name}.zone"
        self.zones[name] = f'zone "{name}" {{ type primary; file "{file}"; {options} }};\n'

    def edit(self, name: str, serial: int, records: int = 20, more: str = "") -> None:
        self.file(name).write_text(zone_text(name, serial, records, more))

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [require_program("named", "bind9"), "-g", "-n", "1", "-c", str(self.conf)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        wait_for("named runs", self._running, 20)

    def _running(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text(errors="replace")
        done = subprocess.run([*self.rndc, "status"], capture_output=True, timeout=10, check=False)
        return done.returncode == 0

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def order(self, *words: str) -> str:
        """rndc's answer."""
        return subprocess.run([*self.rndc, *words], capture_output=True, text=True, timeout=20, check=True).stdout

    def loads(self) -> int:
        """How many zones were loaded, by its log."""
        return self.log.read_text(errors="replace").count("loaded serial")

    def ask(self, name: str, kind: str = "SOA") -> dns.message.Message:
        query = dns.message.make_query(name, kind, flags=0)
        return dns.query.udp(query, HOST, port=self.port, timeout=5)

    def serial(self, name: str) -> int | None:
        """As it is served; None where it is not."""
        try:
            answer = self.ask(name)
        except dns.exception.DNSException:
            return None
        for rrset in answer.answer:
            if rrset.rdtype == dns.rdatatype.SOA and answer.flags & dns.flags.AA:
                return int(rrset[0].serial)
        return None


    def next_serial(self, name: str) -> int:
        """Of an edit: one more than is served. A busy named is asked again; 1 for a zone that it does not have."""
        for _ in range(10):
            served = self.serial(name)
            if served is not None:
                return served + 1
            time.sleep(0.2)
        return 1


class SyncHost(Balancer):
    """One ns7 without services."""

    def __init__(self, folder: Path, text: str) -> None:
        self._text = text
        folder.mkdir()
        super().__init__(folder, [], [])

    def write_config(self) -> None:
        head = f'[process]\nstate_dir = "{self.folder}/state"\n[admin]\nsocket = "{self.control}"\nlisten = []\n'
        self.config.write_text(head + self._text)

    def wait_idle(self, seconds: float = PATIENCE) -> dict[str, Any]:
        return {}

    def sync(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`ns7 refresh …` or `ns7 sync …` toward it."""
        return run_command(*arguments, "--socket", str(self.control), seconds=LONGEST)

    def wait_running(self) -> None:
        wait_for("sync runs", lambda: self.status()["processes"].get("sync", {}).get("running"))

    @property
    def sync_pid(self) -> int:
        return int(self.status()["processes"]["sync"]["pid"])


class Field:
    """Publisher and puller, set up as docs/sync.md says. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        require_program("rsync", "rsync")
        require_program("named-checkconf", "bind9-utils")
        folder.mkdir(parents=True, exist_ok=True)
        self.key = folder / "sync.key"
        self.key.write_text(KEY)
        self.key.chmod(0o600)
        self.publisher, self.puller = NameServer(folder / "publisher"), NameServer(folder / "puller")
        self.stores = {"publish": folder / "published", "pull": folder / "pulled"}
        self.listen, self.rsync_port = free_port(HOST), free_port(HOST)
        self._rsyncd: subprocess.Popen[bytes] | None = None
        include = f'include "{self.stores["pull"]}/current/named.conf";\n'
        self.puller.more = include
        self.puller.write_conf()

    def settings(self, role: str, **more: Any) -> dict[str, Any]:
        """The section [sync] of one of them."""
        host = self.publisher if role == "publish" else self.puller
        return {"publisher": HOST, "pullers": [f"{HOST}:{self.listen}"], "tsig_key_file": str(self.key), "role": role,
                "source": f"rsync://{HOST}:{self.rsync_port}/ns7", "store": str(self.stores[role]), "poll": "1h",
                "named_conf": str(host.conf), "named": host.address, "rndc": host.rndc, "serve_timeout": "5s",
                "rsync": [require_program("rsync", "rsync")], "pid_file": str(host.folder / "named.pid"),
                "timeout": "20s", **more}

    def config(self, role: str, **more: Any) -> Sync:
        """The same as the model."""
        return Sync.model_validate(self.settings(role, **more))

    def run(self, role: str, more: str = "", **settings: Any) -> SyncHost:
        """An `ns7 run` that does nothing but publish, or pull."""
        return SyncHost(self.folder / f"ns7-{role}", section(self.settings(role, **settings)) + more)

    def start_rsyncd(self) -> None:
        """The sample's configuration, on a port and with the rights of this test."""
        self.stores["publish"].mkdir(exist_ok=True)
        text = rsyncd(self.config("publish")).replace("uid = ns7", f"uid = {os.geteuid()}")
        text = f"port = {self.rsync_port}\n" + text.replace("gid = ns7", f"gid = {os.getegid()}")
        if os.geteuid():
            text = text.replace("use chroot = yes", "use chroot = no")
        conf = self.folder / "rsyncd.conf"
        conf.write_text(text)
        with (self.folder / "rsyncd.log").open("ab") as log:
            self._rsyncd = subprocess.Popen(
                [require_program("rsync", "rsync"), "--daemon", "--no-detach", f"--config={conf}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        url = f"rsync://{HOST}:{self.rsync_port}/ns7/"

        def answers() -> bool:
            assert self._rsyncd is not None and self._rsyncd.poll() is None, (self.folder / "rsyncd.log").read_text()
            return subprocess.run(["rsync", url], capture_output=True, timeout=10, check=False).returncode == 0

        wait_for("rsyncd answers", answers, 20)

    def stop_rsyncd(self) -> None:
        if self._rsyncd is not None:
            members = processes.tree(self._rsyncd.pid)
            processes.kill(members)
            self._rsyncd.wait(10)
            self._rsyncd = None

    def served(self) -> dict[str, int | None]:
        """What the puller serves of the publisher's zones."""
        return {name: self.puller.serial(name) for name in self.publisher.zones}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.publisher.stop()
        self.puller.stop()
        self.stop_rsyncd()


def section(settings: Mapping[str, Any]) -> str:
    """[sync] as the file writes it."""
    def value(raw: Any) -> str:
        return "[" + ", ".join(map(value, raw)) + "]" if isinstance(raw, list) else \
            str(raw) if isinstance(raw, int) else f'"{raw}"'

    return "[sync]\n" + "".join(f"{key} = {value(raw)}\n" for key, raw in settings.items())


@contextlib.contextmanager
def field(folder: Path, zones: int = 3) -> Iterator[Field]:
    """Both named and the rsyncd run; the publisher has zones z0.example, z1.example, …; nothing is published yet."""
    with Field(folder) as one:
        for number in range(zones):
            one.publisher.add(f"z{number}.example", absolute=number % 2 == 1)
        one.publisher.write_conf()
        # As docs/sync.md says: the store is there before named includes it.
        Store(str(one.stores["pull"])).open()
        one.publisher.start()
        one.puller.start()
        one.start_rsyncd()
        yield one
