"""Child processes: start, notice the end, start again with backoff. Runs in the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable

from balancer.process import channel
from balancer.process.kinds import command
from balancer.process.messages import Message

FIRST_BACKOFF, MOST_BACKOFF, FORGIVEN_AFTER = 0.1, 5.0, 30.0


class Child:
    """One child that is kept running. `on_start(child)` hands over what it needs, each time it is started."""

    def __init__(self, role: str, number: int, on_start: Callable[[Child], None],
                 on_message: Callable[[Child, Message], None], log: Callable[[str], None]) -> None:
        self.role, self.number, self.restarts = role, number, 0
        self.pid = 0
        self.alive = False
        self._on_start, self._on_message, self._log = on_start, on_message, log
        self._loop = asyncio.get_running_loop()
        self._stopping = False
        self._backoff = 0.0

    def start(self) -> None:
        """Start the process and hand over."""
        ours, theirs = channel.pair()
        with theirs:
            theirs.set_inheritable(True)
            self._process = subprocess.Popen(command(self.role, self.number, theirs.fileno()),
                                             pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self.pid = self._process.pid
        self.gone: asyncio.Future[int] = self._loop.create_future()
        self.alive = True
        self._started = self._loop.time()
        self._watch = os.pidfd_open(self.pid)
        self._loop.add_reader(self._watch, self._on_exit)
        self.channel = channel.Channel(ours, self._received, lambda: None)
        self._on_start(self)

    def _received(self, message: Message, descriptors: list[int]) -> None:
        for descriptor in descriptors:          # children send none
            os.close(descriptor)
        self._on_message(self, message)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._watch)
        os.close(self._watch)
        code = self._process.wait()
        self.channel.close()
        self.alive = False
        self.gone.set_result(code)
        if self._stopping:
            return
        if self._loop.time() - self._started > FORGIVEN_AFTER:
            self._backoff = 0.0
        self._log(f"{self.role} {self.number} (pid {self.pid}) ended with {_told(code)}, "
                  f"starting it again{f' in {self._backoff:.1f} s' if self._backoff else ''}")
        self.restarts += 1
        self._loop.call_later(self._backoff, self._start_again)
        self._backoff = min(max(self._backoff * 2, FIRST_BACKOFF), MOST_BACKOFF)

    def _start_again(self) -> None:
        if not self._stopping:
            self.start()

    def release(self) -> None:
        """It may end now; it will not be started again."""
        self._stopping = True

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            if self.alive:
                os.kill(self.pid, signal.SIGKILL)


def _told(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
