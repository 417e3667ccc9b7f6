"""Child processes: start one, notice its end, fill its place again. Runs in the supervisor.

A `Child` is one process. A `Post` is a place that shall always be filled; where its kind keeps a spare, a process
that is started and imported already stands ready in the `Reserve`, so the place is empty for milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence

from balancer import __version__
from balancer.component import WARNING
from balancer.errors import ProtocolError
from balancer.process import channel
from balancer.process.kinds import command, environment
from balancer.process.messages import Imported, Message

FIRST_BACKOFF, MOST_BACKOFF, FORGIVEN_AFTER = 0.1, 5.0, 30.0
SERVED_WELL = 1.0           # where a spare waits, a second of service is enough: a place without a spare loses queries
EXIT_FOR_GOOD = 2           # bad configuration, no rights: starting again would not help

Log = Callable[[str], None]


class Backoff:
    """How long to wait before a process is started again: at once, then 0.1 s doubling to 5 s. Pure.

    Times are CLOCK_MONOTONIC seconds; a process that lived for `forgiven_after` has redeemed its predecessors.
    """

    def __init__(self, forgiven_after: float = FORGIVEN_AFTER) -> None:
        self._forgiven_after = forgiven_after
        self._next = 0.0

    def ended(self, started: float, now: float) -> float:
        """Seconds to wait before the next start, for a process that ran from `started` to `now`."""
        if now - started >= self._forgiven_after:
            self._next = 0.0
        delay = self._next
        self._next = min(max(2 * delay, FIRST_BACKOFF), MOST_BACKOFF)
        return delay


class Child:
    """One process, from its start to its end. Blank, until its first message says what it shall be.

    argv: of another program, up to the number of the descriptor of its channel; it may be of another version.
    """

    def __init__(self, role: str, log: Log, argv: Sequence[str] = ()) -> None:
        self.role, self._log = role, log
        self._loop = asyncio.get_running_loop()
        self.on_message: Callable[[Message], None] = lambda message: None
        self.on_exit: Callable[[int], None] = lambda code: None
        ours, theirs = channel.pair()
        with theirs:
            theirs.set_inheritable(True)
            self._process = subprocess.Popen(
                [*(argv or command(role)), str(theirs.fileno())], pass_fds=[theirs.fileno()],
                env=None if argv else environment(), stdin=subprocess.DEVNULL)
        self.pid = self._process.pid
        self.started = self._loop.time()
        self.alive = True
        self.gone: asyncio.Future[int] = self._loop.create_future()
        self.imported = asyncio.Event()
        self._watch = os.pidfd_open(self.pid)
        self._loop.add_reader(self._watch, self._exited)
        self._channel = channel.Channel(ours, self._received, lambda: None, self._broken)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Queue a message; to a process that has ended it is nothing."""
        if self.alive:
            self._channel.send(message, descriptors)

    async def until_imported(self) -> None:
        """Until it has loaded its code, or has ended."""
        loaded = self._loop.create_task(self.imported.wait())
        self.gone.add_done_callback(lambda gone: loaded.cancel())
        await asyncio.wait([loaded])

    @property
    def unsent(self) -> int:
        """Messages that it has not taken yet."""
        return self._channel.unsent

    def _received(self, message: Message, descriptors: list[int]) -> None:
        for descriptor in descriptors:          # children send none
            os.close(descriptor)
        if isinstance(message, Imported):
            if message.version == __version__:
                self.imported.set()
            else:
                self.disown(f"is of version {message.version}, this is {__version__}: the program was replaced "
                            "where it runs from; `ns7 upgrade` starts the new one")
        else:
            self.on_message(message)

    def _broken(self, error: ProtocolError) -> None:
        self.disown(str(error))

    def disown(self, reason: str) -> None:
        """End a process that does what ours never do."""
        self._log(f"{WARNING}{self.role} (pid {self.pid}): {reason}: ended")
        self.kill()

    def _exited(self) -> None:
        self._loop.remove_reader(self._watch)
        os.close(self._watch)
        code = self._process.wait()
        self._channel.drain()                   # its last words
        self._channel.close()
        self.alive = False
        self.gone.set_result(code)
        self.on_exit(code)

    def kill(self) -> None:
        """End it at once."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class Reserve:
    """One spare process of a kind, started again with backoff whenever it is taken or ends."""

    def __init__(self, role: str, log: Log) -> None:
        self._role, self._log = role, log
        self._loop = asyncio.get_running_loop()
        self._backoff = Backoff(SERVED_WELL)
        self._spare: Child | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def fill(self) -> None:
        """Start the spare if there is none."""
        self._timer = None
        if self._spare is None and not self._closed:
            self._spare = Child(self._role, self._log)
            self._spare.on_exit = self._lost

    def _later(self, delay: float) -> None:
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(delay, self.fill)

    def _lost(self, code: int) -> None:
        spare, self._spare = self._spare, None
        if spare is not None and not self._closed:
            self._log(f"{WARNING}spare {self._role} (pid {spare.pid}) ended with {told(code)}")
            self._later(self._backoff.ended(spare.started, self._loop.time()))

    def take(self) -> Child | None:
        """The spare, or None when there is none now. The next one is started a moment later."""
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.on_exit = lambda code: None
            self._later(self._backoff.ended(spare.started, self._loop.time()))
        return spare

    @property
    def pid(self) -> int:
        """The spare's pid, 0 when there is none."""
        return self._spare.pid if self._spare is not None else 0

    def close(self) -> None:
        """Keep no spare any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._spare is not None:
            self._spare.kill()


class Post:
    """A place of one process. `on_fill(child)` tells a new process what it shall be; `on_message(message)` hears it.

    `on_end(code, final)` hears that the process ended; final: the place stays empty. until_done: a process that was
    told to end and died before it had is replaced, for its work is not done.
    """

    def __init__(self, role: str, log: Log, on_fill: Callable[[Child], None], on_message: Callable[[Message], None],
                 on_end: Callable[[int, bool], None], reserve: Reserve | None = None, until_done: bool = False) -> None:
        self.role, self._log, self._reserve, self._until_done = role, log, reserve, until_done
        self._on_fill, self._on_message, self._on_end = on_fill, on_message, on_end
        self._loop = asyncio.get_running_loop()
        self._backoff = Backoff(FORGIVEN_AFTER if reserve is None else SERVED_WELL)
        self.released = False
        self._timer: asyncio.TimerHandle | None = None
        self.restarts = 0
        self.child: Child | None = None

    def fill(self, child: Child | None = None) -> None:
        """Put a process in the place: this one, else the spare, else a new one."""
        if child is None and self._reserve is not None:
            child = self._reserve.take()
        if child is None or not child.alive:
            child = Child(self.role, self._log)
        child.on_message, child.on_exit = self._on_message, self._ended
        child.started = self._loop.time()
        self.child = child
        self._on_fill(child)

    @property
    def pid(self) -> int:
        """0 while nobody is there."""
        return self.child.pid if self.child is not None and self.child.alive else 0

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """To whoever is there; a successor is told all it needs by `on_fill`."""
        if self.child is not None:
            self.child.send(message, descriptors)

    def _ended(self, code: int) -> None:
        assert self.child is not None
        done = self.released and (code == 0 or not self._until_done)
        final = done or code == EXIT_FOR_GOOD
        delay = self._backoff.ended(self.child.started, self._loop.time())
        if self.released or (self._reserve is not None and self._reserve.pid):
            delay = 0.0                         # the spare pays for it: the next one is started later
        if not done:
            self._log(f"{WARNING}{self.role} (pid {self.child.pid}) ended with {told(code)}, "
                      + ("not started again" if final else f"its place is filled in {delay:.1f} s" if delay
                         else "its place is filled"))
        self._on_end(code, final)
        if final:
            return
        self.restarts += 1
        if delay:
            self._timer = self._loop.call_later(delay, self.fill)
        else:
            self.fill()

    def release(self) -> None:
        """The process may end now; the place stays empty."""
        self.released = True
        if self._timer is not None:
            self._timer.cancel()

    async def ended(self, seconds: float) -> None:
        """Until the process has ended, by itself or killed after so long."""
        deadline = self._loop.time() + seconds
        while self.child is not None and self.child.alive:
            await asyncio.wait([self.child.gone], timeout=max(0.0, deadline - self._loop.time()))
            if self._loop.time() >= deadline:
                self._until_done = False
                self.child.kill()


def told(code: int) -> str:
    """An exit code for people."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

