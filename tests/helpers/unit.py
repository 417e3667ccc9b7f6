"""ns7 as systemd runs it: a stand-in for what `deploy/ns7.service` asks of it, and nothing else.

It hears the notify socket (sd_notify(3)) of the main process only, as NotifyAccess=main does, follows MAINPID=, keeps
the descriptor store, and hands it over at the next start (sd_listen_fds(3)). A stop is KillMode=mixed: SIGTERM for the
main process, SIGKILL for whoever is left then.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.helpers import processes
from tests.helpers.daemon import STARTING, STOPPING, Balancer, Process
from tests.helpers.processes import Followed
from tests.helpers.waiting import wait_for

FIRST = 3                   # SD_LISTEN_FDS_START
HIGH = 500                  # where descriptors wait for their places
# LISTEN_PID must be the pid of the program itself.
LAUNCH = 'LISTEN_PID=$$; export LISTEN_PID; exec "$@"'


class Manager:
    """The service manager. `store` are (name, descriptor) kept from before, which it owns."""

    def __init__(self, store: Sequence[tuple[str, int]] = ()) -> None:
        self.store = list(store)
        self.said: list[str] = []
        self.unheard: list[str] = []        # of processes that are not the main one
        self.main = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        # A name in the file system, as systemd's: abstract ones end at a network namespace.
        self._folder = tempfile.TemporaryDirectory()
        self._socket.bind(f"{self._folder.name}/notify")
        self._start: Callable[[], Followed]
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, argv: Sequence[str], env: Mapping[str, str], log: Path) -> Followed:
        """Start the unit, its output to the end of `log`."""
        self._start = partial(self.start, argv, env, log)
        notify = self._socket.getsockname()
        names = ":".join(name for name, _ in self.store)
        environment = {**env, "NOTIFY_SOCKET": notify, "LISTEN_FDS": str(len(self.store)), "LISTEN_FDNAMES": names}
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, HIGH) for _, descriptor in self.store]
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, output, 1),
                   (os.POSIX_SPAWN_DUP2, output, 2)]
        actions += [(os.POSIX_SPAWN_DUP2, one, FIRST + number) for number, one in enumerate(high)]
        self.main = os.posix_spawn("/bin/sh", ["sh", "-c", LAUNCH, "sh", *argv], environment, file_actions=actions,
                                   setsid=True)
        for descriptor in (output, *high):
            os.close(descriptor)
        return Followed(self.main)

    def restart(self, number: signal.Signals = signal.SIGTERM) -> Followed:
        """`systemctl restart`; or the main process dies of this signal, and is started again."""
        members = processes.tree(self.main)
        before = Followed(self.main)
        os.kill(self.main, number)
        before.wait(STOPPING)
        processes.kill(members)
        ready = self.said.count("READY=1")
        now = self._start()
        wait_for("READY=1", lambda: self.said.count("READY=1") > ready, STARTING, every=0.005)
        return now

    def _listen(self) -> None:
        space = socket.CMSG_SPACE(12) + socket.CMSG_SPACE(4 * 253)
        while True:
            try:
                data, control, *_ = self._socket.recvmsg(65536, space, socket.MSG_CMSG_CLOEXEC)
            except OSError:
                return
            sender = 0
            descriptors: list[int] = []
            for _, kind, payload in control:
                if kind == socket.SCM_RIGHTS:
                    descriptors += struct.unpack(f"{len(payload) // 4}i", payload[:len(payload) // 4 * 4])
                elif kind == socket.SCM_CREDENTIALS:
                    sender = struct.unpack("3i", payload)[0]
            self._heard(data.decode().splitlines(), descriptors, sender)

    def _heard(self, lines: list[str], descriptors: list[int], sender: int) -> None:
        if sender != self.main:
            self.unheard += lines
            for descriptor in descriptors:
                os.close(descriptor)
            return
        facts = dict(line.partition("=")[::2] for line in lines)
        if facts.get("FDSTOREREMOVE") == "1":
            for pair in [pair for pair in self.store if pair[0] == facts["FDNAME"]]:
                self.store.remove(pair)
                os.close(pair[1])
        known = {os.fstat(descriptor).st_ino for _, descriptor in self.store}
        for descriptor in descriptors:
            if facts.get("FDSTORE") == "1" and os.fstat(descriptor).st_ino not in known:
                self.store.append((facts.get("FDNAME", "stored"), descriptor))
            else:
                os.close(descriptor)
        if "MAINPID" in facts:
            self.main = int(facts["MAINPID"])
        self.said += lines

    def stored(self) -> list[str]:
        """The names in the store."""
        return sorted(name for name, _ in self.store)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._folder.cleanup()
        for _, descriptor in self.store:
            os.close(descriptor)


class Unit(Balancer):
    """A `Balancer` under that manager."""

    def __init__(self, *args: Any, store: Sequence[tuple[str, int]] = (), **kwargs: Any) -> None:
        self.manager = Manager(store)
        super().__init__(*args, **kwargs)

    def _launch(self, argv: Sequence[str], env: dict[str, str]) -> Process:
        return self.manager.start(argv, {**os.environ, **env}, self.log)

    def restart(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process = self.manager.restart(number)

    def __exit__(self, *exc: Any) -> None:
        try:
            super().__exit__(*exc)
        finally:
            self.manager.close()
