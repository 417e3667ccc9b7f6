"""The child's side of admin, alert and every component: makes its `Host`, runs its `main`. Not for workers.

The process imports its code at once and then waits for `Start`, so a spare is a process of which nothing was asked
yet. What it is told that it does not understand is fatal, and the supervisor starts it anew.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import uvloop

from balancer import __version__
from balancer.component import ERROR, Event, Host, Server, Service, resolve
from balancer.errors import ControlError, Ns7Error, ProtocolError, StartError
from balancer.process.channel import Channel, broken, fatal
from balancer.process.children import EXIT_FOR_GOOD
from balancer.process.journal import log
from balancer.process.kinds import Kind
from balancer.process.messages import (
    Ask,
    Configure,
    Emit,
    HandOver,
    Imported,
    Message,
    Notice,
    Publish,
    Reply,
    Rows,
    Snapshot,
    Standing,
    Start,
    Started,
    Stop,
)
from balancer.table.table import ConfigTable, Row
from balancer.table.verdicts import Verdicts
from balancer.table.view import TableView

HANDLERS_AT_ONCE = 64           # requests answered at the same time; more are refused

Handler = Callable[[Mapping[str, Any]], Any]


class Line:
    """The `component.Link` of this process, and what comes over it before `main` runs: kept until it is asked for."""

    def __init__(self, end: socket.socket, model: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._model = model
        self._channel = Channel(end, self._on_message, self._on_end, broken)
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._handlers: dict[str, tuple[Handler, Callable[[], str] | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_config: Callable[[Any, tuple[Service, ...]], None] | None = None
        self._on_event: Callable[[Event], None] | None = None
        self._on_snapshot: Callable[[str, Mapping[str, Any]], None] | None = None
        self._on_standing: Callable[[str], None] | None = None
        self._on_stop: Callable[[], None] | None = None
        self._parent = os.getppid()
        self._on_hand_over: Callable[[], Mapping[str, Any]] | None = None
        self._early: list[Message] = []
        self._view: TableView | None = None
        self._channel.send(Imported(__version__))
        self.started: asyncio.Future[tuple[Start, list[int]]] = self._loop.create_future()
        self.stopped = asyncio.Event()

    # The Link

    def emit(self, event: Event) -> None:
        self._channel.send(Emit(list(event)))

    def publish(self, snapshot: Mapping[str, Any]) -> None:
        self._channel.send(Publish(dict(snapshot)))

    def serve(self, verb: str, handler: Handler, state: Callable[[], str] | None = None) -> None:
        self._handlers[verb] = handler, state

    async def request(self, kind: str, verb: str, arguments: Mapping[str, Any], timeout: float) -> Any:
        number = next(self._numbers)
        future = self._waiting[number] = self._loop.create_future()
        self._channel.send(Ask(number, kind, verb, dict(arguments), timeout))
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise ControlError(f"{kind or 'supervisor'}: no answer to {verb} within {timeout:g} s") from None
        finally:
            del self._waiting[number]

    def on_config(self, handler: Callable[[Any, tuple[Service, ...]], None]) -> None:
        self._on_config = handler

    def on_event(self, handler: Callable[[Event], None]) -> None:
        self._on_event = handler
        self._catch_up()

    def on_snapshot(self, handler: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._on_snapshot = handler
        self._catch_up()

    def declare(self, standing: str) -> None:
        self._channel.send(Standing(standing))

    @property
    def orphaned(self) -> bool:
        return os.getppid() != self._parent

    def on_standing(self, handler: Callable[[str], None]) -> None:
        self._on_standing = handler
        self._catch_up()

    def on_stop(self, handler: Callable[[], None]) -> None:
        self._on_stop = handler
        if self.stopped.is_set():
            handler()

    def on_hand_over(self, handler: Callable[[], Mapping[str, Any]]) -> None:
        self._on_hand_over = handler

    # The channel

    def attach(self, view: TableView) -> None:
        """The table whose rows `Rows` changes."""
        self._view = view

    def tell_started(self) -> None:
        """The supervisor hears that the process runs."""
        self._channel.send(Started())

    def _on_message(self, message: Message, descriptors: list[int]) -> None:
        match message:
            case Start():
                if self.started.done():
                    raise ProtocolError("started twice")
                self.started.set_result((message, descriptors))
                return
            case Rows():
                if self._view is not None:
                    self._view.rows = attach_rows(descriptors)
                return
            case Configure(section, services):
                if self._on_config is not None:
                    self._on_config(self.model(section), read_services(services))
            case Notice() | Snapshot() | Standing():
                self._early.append(message)
                self._catch_up()
            case Ask():
                self._answer(message)
            case Reply(number, ok, result):
                future = self._waiting.get(number)
                if future is not None and not future.done():
                    if ok:
                        future.set_result(result)
                    else:
                        future.set_exception(ControlError(str(result)))
            case Stop():
                self.stop()
            case HandOver():
                self._hand_over()
            case _:
                raise ProtocolError(f"a component is never told {type(message).__name__}")
        for descriptor in descriptors:
            os.close(descriptor)

    def _catch_up(self) -> None:
        # Events before snapshots would be a different order from the supervisor's: they come as they came.
        waiting: list[Message] = []
        for message in self._early:
            if isinstance(message, Notice) and self._on_event is not None:
                self._on_event(message.read())
            elif isinstance(message, Snapshot) and self._on_snapshot is not None:
                self._on_snapshot(message.name, message.data)
            elif isinstance(message, Standing) and self._on_standing is not None:
                self._on_standing(message.standing)
            else:
                waiting.append(message)
        self._early = waiting[-1100:]

    def model(self, section: Any) -> Any:
        """The section as its model; None where the file has none."""
        return None if section is None or self._model is None else self._model.model_validate(section)

    def _answer(self, ask: Ask) -> None:
        if ask.verb not in self._handlers:
            known = ", ".join(sorted(self._handlers)) or "none"
            self._channel.send(Reply(ask.number, False, f"unknown verb {ask.verb} (known: {known})"))
        elif len(self._tasks) >= HANDLERS_AT_ONCE:
            self._channel.send(Reply(ask.number, False, "too many requests at once"))
        else:
            task = self._loop.create_task(self._handle(*self._handlers[ask.verb], ask))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    async def _handle(self, handler: Handler, state: Callable[[], str] | None, ask: Ask) -> None:
        before = state() if state is not None else ""
        try:
            ok, result = True, handler(ask.arguments)
            if inspect.isawaitable(result):
                result = await _within(result, ask.timeout)
        except Ns7Error as error:
            ok, result = False, str(error)
        # One that was refused halfway may have changed something all the same.
        self._channel.send(Reply(ask.number, ok, result, [before, state()] if state is not None else []))

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "a verb's handler failed", "exception": error})

    def stop(self) -> None:
        """The process shall end."""
        if not self.stopped.is_set():
            self.stopped.set()
            if self._on_stop is not None:
                self._on_stop()

    def _hand_over(self) -> None:
        if self._on_hand_over is None:
            self.stop()
        elif not self.stopped.is_set():
            self.publish(self._on_hand_over())
            self.stopped.set()

    def _on_end(self) -> None:
        # The supervisor is gone: a process that waits for its Start has nothing to end in order.
        if not self.started.done():
            self.started.cancel()
        self.stop()


async def _within(result: Awaitable[Any], seconds: float) -> Any:
    try:
        async with asyncio.timeout(seconds):
            return await result
    except TimeoutError:
        raise ControlError(f"not done within {seconds:g} s") from None


def attach_rows(descriptors: list[int]) -> list[Row]:
    """The rows behind these descriptors, which are closed."""
    rows = [Row(descriptor) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    return rows


def read_services(raw: list[Any]) -> tuple[Service, ...]:
    """Services as they travel in a message."""
    return tuple(Service(name, tuple(listen), tuple(Server(*server) for server in servers))
                 for name, listen, servers in raw)


async def serve(kind: Kind, channel: int) -> int:
    """Run `main` until it returns; the exit code."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(fatal)
    main = resolve(kind.main)
    line = Line(socket.socket(fileno=channel), resolve(kind.config) if kind.config else None)
    for number in (signal.SIGINT, signal.SIGHUP):           # Ctrl-C reaches the whole group: the supervisor decides
        loop.add_signal_handler(number, lambda: None)
    loop.add_signal_handler(signal.SIGTERM, line.stop)
    try:
        start, descriptors = await line.started
    except asyncio.CancelledError:
        return 0
    config_fd, verdicts_fd, *rest = descriptors
    verdicts = Verdicts(verdicts_fd, kind.rights.verdicts)
    view = TableView(ConfigTable(config_fd), attach_rows(rest[:start.rows]), verdicts)
    os.close(config_fd)
    os.close(verdicts_fd)
    line.attach(view)
    try:
        host = Host(
            config=line.model(start.section), node=start.node, services=read_services(start.services), table=view,
            channel=line, snapshot=start.snapshot,
            sockets={name: socket.socket(fileno=fd) for name, fd in zip(start.sockets, rest[start.rows:], strict=True)},
            clock=time.monotonic, log=log, state=start.state, verdicts=verdicts if kind.rights.verdicts else None)
        running = asyncio.ensure_future(main(host))
        await asyncio.sleep(0)                              # its handlers are in place when others may ask
        if not running.done():
            line.tell_started()
        await running
    except StartError as error:
        log(f"{ERROR}{error}")
        return EXIT_FOR_GOOD
    return 0 if line.stopped.is_set() else 1                # a main that returns unasked has failed


def main(kind: Kind, channel: int) -> None:
    """Entry of every process kind but the worker."""
    code = uvloop.run(serve(kind, channel))
    sys.exit(code)
