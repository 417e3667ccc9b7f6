"""Publisher and puller as an operator runs them: two `ns7 run` without services, over a field of zones."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.helpers.daemon import COMMAND, ROOT
from tests.helpers.waiting import wait_for
from tests.helpers.zones import HOST, Field, SyncHost, field


class Hosts:
    """Both hosts over one field."""

    def __init__(self, one: Field, publisher: SyncHost, puller: SyncHost) -> None:
        self.field, self.publisher, self.puller = one, publisher, puller

    def refresh(self, *options: str, code: int = 0) -> str:
        done = self.publisher.sync("refresh", *options)
        assert done.returncode == code, f"{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def start_refresh(self) -> subprocess.Popen[bytes]:
        """The same, not waited for."""
        return subprocess.Popen([*COMMAND, "refresh", "--socket", str(self.publisher.control)], cwd=ROOT,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def edit(self, name: str = "z0.example") -> int:
        serial = self.field.publisher.next_serial(name)
        self.field.publisher.edit(name, serial)
        return serial

    def wait_served(self, serial: int, name: str = "z0.example") -> None:
        wait_for(f"{name} {serial}", lambda: self.field.puller.serial(name) == serial, 20)

    def counters(self, host: SyncHost) -> dict[str, int]:
        found = host.status()["components"]["sync"]["counters"]
        assert isinstance(found, dict)
        return found

    def kill_somewhere(self, number: int) -> None:
        """Edit every zone, refresh, kill a sync process meanwhile; what its successor settles must be one generation,
        and so must be what comes after.

        number: every fourth kill is the publisher's, and each has its own moment, always the same.
        """
        victim, after = self.publisher if number % 4 == 3 else self.puller, random.Random(number).uniform(0.1, 1.0)
        names = list(self.field.publisher.zones)
        for name in names:
            self.edit(name)
        pid = victim.sync_pid
        with ThreadPoolExecutor(1) as pool:
            calling = pool.submit(self.publisher.sync, "refresh")
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            calling.result()
        wait_for("another one", lambda: victim.sync_pid not in (0, pid), 20)
        self.publisher.wait_running()
        self.puller.wait_running()
        wait_for("the puller has settled", lambda: self.puller.sync("sync", "now").returncode == 0, 20)
        served = self.field.served()
        assert len(set(served.values())) == 1, f"a mix: {served}"
        self.refresh("--wait")
        wanted = {name: self.field.publisher.serial(name) for name in names}
        assert self.field.served() == wanted and len(set(wanted.values())) == 1

    def send(self, wire: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(wire, (HOST, self.field.listen))


@contextlib.contextmanager
def running(folder: Path, zones: int = 3, **settings: Any) -> Iterator[Hosts]:
    """Both run; nothing is published yet."""
    with (
        field(folder / "field", zones) as one,
        one.run("publish", **settings) as publisher,
        one.run("pull", **settings, listen=f"{HOST}:{one.listen}") as puller,
    ):
        publisher.wait_running()
        puller.wait_running()
        yield Hosts(one, publisher, puller)
