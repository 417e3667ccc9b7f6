"""A real name server that a test may freeze, kill, start again on its port, or give other zones: BIND or NSD."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.helpers import processes, wire
from tests.helpers.client import Client
from tests.helpers.nameconf import at, named_options, nsd_server
from tests.helpers.need import require_program
from tests.helpers.ports import free_port
from tests.helpers.waiting import wait_for

ZONE = "health.example"


def zone_text(serial: int) -> str:
    return (f"$TTL 300\n@ SOA ns hostmaster {serial} 3600 900 604800 300\n@ NS ns\nns A 127.0.0.1\n"
            "www A 192.0.2.80\n")


class Zoned:
    """Serves `zones` (name → serial) at `address`. A context manager. more: options of named, server lines of NSD."""

    def __init__(self, kind: str, folder: Path, zones: Mapping[str, int] | None = None, more: str = "",
                 host: str = "127.0.0.1", port: int = 0) -> None:
        self.kind, self.folder, self.more = kind, folder, more
        self._program = require_program(kind, {"named": "bind9", "nsd": "nsd"}[kind])
        self.zones = dict(zones or {ZONE: 1})
        self.host, self.port = host, port or free_port(host)
        folder.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def start(self) -> None:
        """Until it answers."""
        self._write()
        argv = ([self._program, "-g", "-n", "1", "-c", f"{self.folder}/conf"] if self.kind == "named" else
                [self._program, "-d", "-c", f"{self.folder}/conf"])
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True, env={**os.environ})
        wait_for(f"{self.kind} answers", lambda: self.serial() is not None, 20)

    def serial(self, zone: str = "") -> int | None:
        """What it serves now; None when it does not."""
        import dns.message

        with Client(self.address) as client, contextlib.suppress(AssertionError, OSError):
            message = dns.message.from_wire(client.ask(wire.query(zone or next(iter(self.zones)), "SOA"), 0.5))
            return int(message.answer[0][0].serial) if message.answer else None
        return None

    def serve(self, zones: Mapping[str, int]) -> None:
        """Other zones or serials from now on (BIND only where one comes or goes)."""
        self.zones = dict(zones)
        self._write()
        self.signal(signal.SIGHUP)

    def signal(self, number: int) -> None:
        """To all of its processes."""
        assert self.process is not None
        for member in processes.tree(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, number)

    def stop(self) -> None:
        """Killed; `start` brings it back on the same port."""
        if self.process is not None:
            members = processes.tree(self.process.pid)
            processes.kill(members)
            self.process.wait(5)
            self.process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _write(self) -> None:
        for zone, serial in self.zones.items():
            (self.folder / f"{zone}.zone").write_text(zone_text(serial))
        (self.folder / "conf").write_text(self._named() if self.kind == "named" else self._nsd())

    def _named(self) -> str:
        served = "".join(f'zone "{zone}" {{ type primary; file "{zone}.zone"; }};\n' for zone in self.zones)
        return (named_options(self.folder, at(self.host, self.port), self.more or "recursion no;")
                + "controls { };\n" + served)

    def _nsd(self) -> str:
        served = "".join(f'zone:\n  name: {zone}\n  zonefile: "{zone}.zone"\n' for zone in self.zones)
        return nsd_server(self.folder, [f"{self.host}@{self.port}"], more=f"  {self.more}\n") + served
