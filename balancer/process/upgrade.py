"""Two supervisors during `ns7 upgrade`: the running one starts the program as it is installed now beside itself.

    old                                             new
    Inherit …, Estate  ───────────────────────────▶ checks the file, takes the listeners that it wants, reads the table
                       ◀─────────────── Prepared    its workers listen, everything else has loaded its code
    Notice …, Snapshot …, Ended ──────────────────▶ each process starts with what its predecessor published last; the
                                                    Snapshot of "" has what the supervisor itself has counted
                       ◀──────────────── Started
    MAINPID= to systemd, Succeed ─────────────────▶ READY=1; the control socket is its own
    its workers read no more and finish; EOF ─────▶ counters of the old workers become past
                       ◀─── Stop, if need be        it shall end as well: finish soon

Until Succeed the old one can go on as if nothing had been: whatever fails before (Refused, an end, too long a wait)
leaves it as it was. If the old one dies when all is prepared, the new one goes on alone. Listening sockets are shared
by both, so nothing is lost between them. Memory has one writer throughout: the new supervisor copies the
configuration table, and only reads the old rows until the old supervisor has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from balancer import __version__
from balancer.component import Event
from balancer.errors import ControlError, ProtocolError, StartError
from balancer.process.channel import Channel
from balancer.process.children import Child, Log, told
from balancer.process.messages import (
    HAND_OVER,
    Counters,
    Ended,
    Estate,
    Inherit,
    Message,
    Notice,
    Refused,
    Snapshot,
    Stop,
    Succeed,
)
from balancer.process.state import Inheritance

AT_ONCE = 250               # descriptors in one message
PREPARED_WAIT = 60.0        # seconds for a new supervisor until its workers listen
STARTED_WAIT = 30.0         # seconds for its other processes to start
GONE_WAIT = 10.0            # seconds for one that will not be to end by itself

Answer = TypeVar("Answer", bound=Message)


def program(orig_argv: Sequence[str], argv: Sequence[str]) -> list[str]:
    """How this program was started, up to its verb; started so again it is whatever is installed there by then.

    Arguments as `sys` has them. A script is run by itself: its first line may name another interpreter by now.
    """
    started = list(orig_argv[:len(orig_argv) - len(argv) + 1])
    script = started[-1]
    if "-m" not in started and os.access(script, os.X_OK):
        return [script]
    return [sys.executable, *started[1:]]


class Successor:
    """The new supervisor, seen from the running one."""

    def __init__(self, path: str, node: str | None, log: Log) -> None:
        argv = [*program(sys.orig_argv, sys.argv), "run", "-c", path, *(["--node", node] if node else []), "--inherit"]
        self._said: asyncio.Queue[Message] = asyncio.Queue()
        try:
            self._child = Child("supervisor", log, argv)
        except OSError as error:
            raise ControlError(f"cannot start {argv[0]}: {error.strerror}") from error
        self._child.on_message = self._said.put_nowait
        self._child.on_exit = lambda code: self._said.put_nowait(
            Refused(f"the new supervisor ended with {told(code)}; the log tells more"))

    @property
    def pid(self) -> int:
        return self._child.pid

    def send(self, message: Message) -> None:
        self._child.send(message)

    def bequeath(self, listeners: Sequence[socket.socket], control: socket.socket, config: int, rows: Sequence[int],
                 verdicts: int, estate: Estate) -> None:
        """Hand over all descriptors."""
        things = [*(("listener", one.fileno()) for one in listeners), ("control", control.fileno()),
                  ("config", config), *(("row", row) for row in rows), ("verdicts", verdicts)]
        for at in range(0, len(things), AT_ONCE):
            some = things[at:at + AT_ONCE]
            self._child.send(Inherit([kind for kind, _ in some]), [descriptor for _, descriptor in some])
        self._child.send(estate)

    async def expect(self, kind: type[Answer], seconds: float) -> Answer:
        """The next thing it says; ControlError, with the reason, when that is something else or comes too late."""
        try:
            async with asyncio.timeout(seconds):
                message = await self._said.get()
        except TimeoutError:
            raise ControlError(f"the new supervisor is not ready after {seconds:g} s") from None
        if isinstance(message, Refused):
            raise ControlError(message.reason)
        if not isinstance(message, kind):
            raise ControlError(f"the new supervisor said {type(message).__name__} instead of {kind.__name__}")
        return message

    def on_stop(self, handler: Callable[[], None]) -> None:
        """It has succeeded us. `handler()` is called when it ends and waits for us to."""
        self._child.on_message = lambda message: handler() if isinstance(message, Stop) else None

    async def heard_all(self) -> None:
        """Until it has read all that was sent, or has ended."""
        while self._child.alive and self._child.unsent:
            await asyncio.sleep(0.01)

    async def end(self) -> None:
        """It will not be: it gives its sockets back and ends, with what its workers have in flight."""
        if self._child.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child.pid, signal.SIGTERM)
            await asyncio.wait([self._child.gone], timeout=GONE_WAIT)
            self._child.kill()


class Predecessor:
    """The running supervisor, seen from the new one. Until `bequest` has come nothing else does."""

    def __init__(self, channel: int) -> None:
        self.bequest: asyncio.Future[Estate] = asyncio.get_running_loop().create_future()
        self.control: socket.socket | None = None
        self.on_event: Callable[[Event], None] = lambda event: None
        self.on_snapshot: Callable[[str, dict[str, Any]], None] = lambda name, data: None
        self.on_counters: Callable[[dict[str, Any]], None] = lambda service: None
        self.ended, self.succeeded, self.gone = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._listeners: list[socket.socket] = []
        self._config: int | None = None
        self._verdicts: int | None = None
        self._rows: list[int] = []
        self._channel = Channel(socket.socket(fileno=channel), self._heard, self._on_end, _broken)

    def send(self, message: Message) -> None:
        self._channel.send(message)

    async def inheritance(self) -> tuple[Estate, Inheritance]:
        """All that is handed over; StartError when it cannot be understood."""
        estate = await self.bequest
        if estate.protocol != HAND_OVER:
            raise StartError(f"ns7 {__version__} cannot take over from {estate.version}: restart it instead")
        return estate, Inheritance(self._listeners, self._config, self._rows, self._verdicts)

    async def until(self, event: asyncio.Event) -> None:
        """Until that has come to pass, or the predecessor is gone."""
        tasks = [asyncio.ensure_future(one.wait()) for one in (event, self.gone)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    def _heard(self, message: Message, descriptors: list[int]) -> None:
        match message:
            case Inherit(kinds):
                for kind, descriptor in zip(kinds, descriptors, strict=True):
                    self._take(kind, descriptor)
            case Estate():
                self.bequest.set_result(message)
            case Notice():
                self.on_event(message.read())
            case Snapshot(name, data):
                self.on_snapshot(name, data)
            case Counters(service):
                self.on_counters(service)
            case Ended():
                self.ended.set()
            case Succeed():
                self.succeeded.set()
            case _:
                raise ProtocolError(f"a new supervisor is never told {type(message).__name__}")

    def _take(self, kind: str, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        if kind == "listener":
            self._listeners.append(socket.socket(fileno=descriptor))
        elif kind == "control":
            self.control = socket.socket(fileno=descriptor)
        elif kind == "config":
            self._config = descriptor
        elif kind == "row":
            self._rows.append(descriptor)
        elif kind == "verdicts":
            self._verdicts = descriptor
        else:
            os.close(descriptor)            # a later version's, which says so by another HAND_OVER if it matters

    def _on_end(self) -> None:
        if not self.bequest.done():
            self.bequest.set_exception(StartError("the running supervisor has ended"))
        self.gone.set()

    def refuse(self, reason: str) -> None:
        """Tell why we will not be. Nothing happens when there is nobody any more."""
        self.send(Refused(reason))


def _broken(error: ProtocolError) -> None:
    raise error
