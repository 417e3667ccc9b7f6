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
import threading
from collections.abc import Sequence
from typing import Any

from tests.helpers import processes
from tests.helpers.daemon import STARTING, STOPPING, Balancer, Process
from tests.helpers.processes import Followed
from tests.helpers.waiting import wait_for

FIRST = 3                   # SD_LISTEN_FDS_START
HIGH = 500                  # where descriptors wait for their places
# LISTEN_PID must be the pid of the program itself.
LAUNCH = 'LISTEN_PID=$$; export LISTEN_PID; exec "$@"'


class Unit(Balancer):
    """A `Balancer` under that stand-in. `store` are (name, descriptor) kept from before, which it owns."""

    def __init__(self, *args: Any, store: Sequence[tuple[str, int]] = (), **kwargs: Any) -> None:
        self.store = list(store)
        self.said: list[str] = []
        self.unheard: list[str] = []        # of processes that are not the main one
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind("")               # an abstract name
        self._main = 0
        self._argv: Sequence[str] = ()
        self._environment: dict[str, str] = {}
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        super().__init__(*args, **kwargs)

    def _launch(self, argv: Sequence[str], env: dict[str, str]) -> Process:
        self._argv, self._environment = argv, env
        notify = "@" + self._socket.getsockname()[1:].decode()
        names = ":".join(name for name, _ in self.store)
        environment = {**os.environ, **env, "NOTIFY_SOCKET": notify, "LISTEN_FDS": str(len(self.store)),
                       "LISTEN_FDNAMES": names}
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, HIGH) for _, descriptor in self.store]
        log = os.open(self.log, os.O_WRONLY | os.O_APPEND)
        actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, log, 1),
                   (os.POSIX_SPAWN_DUP2, log, 2)]
        actions += [(os.POSIX_SPAWN_DUP2, one, FIRST + number) for number, one in enumerate(high)]
        self._main = os.posix_spawn("/bin/sh", ["sh", "-c", LAUNCH, "sh", *argv], environment, file_actions=actions,
                                    setsid=True)
        for descriptor in (log, *high):
            os.close(descriptor)
        return Followed(self._main)

    def _listen(self) -> None:
        space = socket.CMSG_SPACE(12) + socket.CMSG_SPACE(4 * 253)
        while True:
            try:
                data, control, *_ = self._socket.recvmsg(65536, space, socket.MSG_CMSG_CLOEXEC)
            except OSError:
                return
            sender, descriptors = 0, []
            for _, kind, payload in control:
                if kind == socket.SCM_RIGHTS:
                    descriptors += struct.unpack(f"{len(payload) // 4}i", payload[:len(payload) // 4 * 4])
                elif kind == socket.SCM_CREDENTIALS:
                    sender = struct.unpack("3i", payload)[0]
            self._heard(data.decode().splitlines(), descriptors, sender)

    def _heard(self, lines: list[str], descriptors: list[int], sender: int) -> None:
        if sender != self._main:
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
            self._main = int(facts["MAINPID"])
        self.said += lines

    @property
    def main(self) -> int:
        """The main process, as far as the service manager knows."""
        return self._main

    def stored(self) -> list[str]:
        return sorted(name for name, _ in self.store)

    def restart(self, number: signal.Signals = signal.SIGTERM) -> None:
        """`systemctl restart`; or the main process dies of this signal, and is started again."""
        members = processes.tree(self._main)
        os.kill(self._main, number)
        wait_for("the end of the main process", lambda: not processes.alive(self._main), STOPPING, every=0.005)
        processes.kill(members)
        self.process.wait(STOPPING)
        ready = self.said.count("READY=1")
        self.process = self._launch(self._argv, self._environment)
        wait_for("READY=1", lambda: self.said.count("READY=1") > ready, STARTING, every=0.005)

    def __exit__(self, *exc: Any) -> None:
        try:
            super().__exit__(*exc)
        finally:
            self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            for _, descriptor in self.store:
                os.close(descriptor)
