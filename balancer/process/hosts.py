"""Admin, alert and the components, seen from the supervisor: started, heard, asked, started again.

The supervisor knows them as posts and messages only. What they publish is kept here and returned to a successor.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from balancer.component import ACTIVE, STANDINGS, Event, components
from balancer.errors import ControlError, ProtocolError, StartError
from balancer.process.children import Child, Log, Post, Reserve, told
from balancer.process.events import Events
from balancer.process.kinds import CORE, find
from balancer.process.messages import (
    Ask,
    Configure,
    Emit,
    HandOver,
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

if TYPE_CHECKING:
    from balancer.config import Config
    from balancer.process.state import State

START_WAIT = 30.0           # seconds for the processes of an upgrade to load their code
SETTLED = 0.2               # seconds in which a process that cannot run has ended
STOP_WAIT = 3.0             # seconds for a process to end in order
WAITING = 256               # requests under way at most
EVENT_BURST, EVENT_RATE = 200, 20.0     # of one process: that many at once, then per second; more are dropped
_STOP = Stop()
TOLD = ("admin", "alert")   # who hears of events; admin hears of snapshots too


class Hosted:
    """One process with its place and what it said last."""

    def __init__(self, post: Post) -> None:
        self.post = post
        self.snapshot: dict[str, Any] = {}
        self.running = False
        self.tokens = float(EVENT_BURST)
        self.filled = 0.0


class Request(NamedTuple):
    """One that waits for its answer. user: who asks, for the audit."""

    name: str
    verb: str
    user: str
    answer: asyncio.Future[Any]


class Hosts:
    """All processes but the workers. `verbs` answers what they ask the supervisor itself."""

    def __init__(self, state: State, state_dir: str, events: Events,
                 verbs: Callable[[str, Mapping[str, Any]], Awaitable[Any]], log: Log) -> None:
        self._state, self._state_dir, self._events, self._verbs, self._log = state, state_dir, events, verbs, log
        self._loop = asyncio.get_running_loop()
        self._hosted: dict[str, Hosted] = {}
        self._reserves: dict[str, Reserve] = {}
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Request] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._facts: dict[str, Any] = {}
        self.standing = ACTIVE
        self._prepared: dict[str, Child] = {}           # processes that wait for their predecessors' end
        self._left: dict[str, dict[str, Any]] = {}      # what a predecessor published last
        self._changed = asyncio.Event()

    # Life

    def start(self) -> None:
        """Start what this host's configuration wants and does not run."""
        for name in _wanted(self._state.config):
            if name not in self._hosted:
                self._start(name)

    def _start(self, name: str) -> None:
        if find(name).spare:
            self._reserves[name] = Reserve(name, self._log)
        post = Post(name, self._log, lambda child: self._fill(name, child), lambda message: self._heard(name, message),
                    lambda code, final: self._ended(name, code, final), self._reserves.get(name))
        self._hosted[name] = Hosted(post)
        self._hosted[name].snapshot = self._left.pop(name, {})
        post.fill(self._prepared.pop(name, None))

    def configure(self) -> None:
        """The configuration changed: tell those who run, start and stop as it wants."""
        config = self._state.config
        for name in self._hosted.keys() - set(_wanted(config)):
            task = self._loop.create_task(self._stop(self._hosted.pop(name)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            if name in self._reserves:
                self._reserves.pop(name).close()
            if _floats(name):
                self._stand(ACTIVE)
        for name, hosted in self._hosted.items():
            hosted.post.send(Configure(_section(config, name), _services(config)))
        self.start()

    def rows_changed(self) -> None:
        """Other workers are there: who reads the table must read theirs."""
        for hosted in self._hosted.values():
            hosted.post.send(Rows(), self._state.view_descriptors())

    # Upgrade

    async def prepare(self) -> None:
        """Start what `start` would, up to the point where its code is loaded; StartError when that fails."""
        self._prepared = {name: Child(name, self._log) for name in _wanted(self._state.config)}
        try:
            async with asyncio.timeout(START_WAIT):
                for name, child in self._prepared.items():
                    await child.until_imported()
                    if not child.alive:
                        raise StartError(f"{name} does not start, it ended with {told(child.gone.result())}")
        except TimeoutError:
            late = [name for name, child in self._prepared.items() if not child.imported.is_set()]
            raise StartError(f"{', '.join(late)}: not loaded after {START_WAIT:g} s") from None

    def take_over(self, name: str, snapshot: dict[str, Any]) -> None:
        """A predecessor's process has ended, leaving this: start ours, if there shall be one."""
        self._left[name] = snapshot
        if name in _wanted(self._state.config) and name not in self._hosted:
            self._start(name)

    async def until_running(self, names: Collection[str], seconds: float) -> None:
        """Until all of these that there are run, and have for a moment; StartError when one ends, or takes too long."""
        chosen = {name: self._hosted[name] for name in names if name in self._hosted}
        waiting: list[str] = []
        try:
            async with asyncio.timeout(seconds):
                while waiting := [name for name, hosted in chosen.items() if not hosted.running]:
                    _none_has_ended(chosen)
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise StartError(f"{', '.join(waiting)}: not running after {seconds:g} s") from None
        await asyncio.sleep(SETTLED)
        _none_has_ended(chosen)

    async def hand_over(self, tell: Callable[[str, dict[str, Any]], None]) -> None:
        """End them all for those of a successor. `tell(name, snapshot)` as soon as one that ran has ended.

        `start` brings them back, with what they published last.
        """
        async def leave(name: str) -> None:
            hosted = self._hosted[name]
            ran = hosted.running
            self._fail_requests(name, f"{name} hands over to another version")
            await self._stop(hosted, HandOver())
            del self._hosted[name]
            self._left[name] = hosted.snapshot
            if ran:
                tell(name, hosted.snapshot)

        for reserve in self._reserves.values():
            reserve.close()
        self._reserves.clear()
        await asyncio.gather(*(leave(name) for name in self._hosted if name not in TOLD))
        await asyncio.gather(*(leave(name) for name in self._hosted))

    async def stop(self) -> None:
        """End them all, alert and admin last: they may have something to tell."""
        for child in self._prepared.values():
            child.kill()
        for reserve in self._reserves.values():
            reserve.close()
        last = [self._hosted.pop(name) for name in TOLD if name in self._hosted]
        await asyncio.gather(*(self._stop(hosted) for hosted in self._hosted.values()))
        await asyncio.gather(*(self._stop(hosted) for hosted in last))

    async def _stop(self, hosted: Hosted, message: Stop | HandOver = _STOP) -> None:
        hosted.post.release()
        hosted.post.send(message)
        # One that still loads its code has begun nothing that could be ended in order.
        await hosted.post.ended(STOP_WAIT if hosted.running else 0.0)

    def kill(self) -> None:
        """End them at once."""
        for hosted in self._hosted.values():
            if hosted.post.child is not None:
                hosted.post.child.kill()

    def _fill(self, name: str, child: Child) -> None:
        hosted, config = self._hosted[name], self._state.config
        views = self._state.view_descriptors()
        writes = find(name).rights.verdicts
        verdicts = self._state.verdicts_fd if writes else self._state.verdicts_view_fd
        child.send(Start(config.node, self._state_dir, _section(config, name), _services(config),
                         hosted.snapshot, len(views), []), [self._state.config_view_fd, verdicts, *views])
        if name == "admin":
            child.send(Snapshot("", self._facts))
            for other, one in self._hosted.items():
                child.send(Snapshot(other, one.snapshot))
        if name == "alert":
            child.send(Standing(self.standing))
        if name in TOLD:
            for event in self._events.since(str(hosted.snapshot.get("last_event", ""))):
                child.send(Notice(list(event)))

    def _ended(self, name: str, code: int, final: bool) -> None:
        hosted = self._hosted.get(name)
        if hosted is None or hosted.post.released:
            return
        was, hosted.running = hosted.running, False
        self._changed.set()
        self._fail_requests(name, f"{name} has ended")
        self._events.tell("component", name, "up" if was else "starting", "failed" if final else "down", told(code))

    # Messages

    def _heard(self, name: str, message: Message) -> None:
        hosted = self._hosted.get(name)
        if hosted is None:
            return
        match message:
            case Started():
                hosted.running = True
                self._changed.set()
                if hosted.post.restarts:
                    self._events.tell("component", name, "down", "up", "started again")
                elif name in self._reserves:
                    self._reserves[name].fill()
            case Standing(standing) if _floats(name) and standing in STANDINGS:
                self._stand(standing)
            case Emit():
                self._take_event(name, hosted, message)
            case Publish(data):
                hosted.snapshot = data
                if "admin" in self._hosted and name != "admin":
                    self._hosted["admin"].post.send(Snapshot(name, data))
            case Ask():
                self._forward(name, hosted, message)
            case Reply():
                self._take_reply(message)
            case _:
                assert hosted.post.child is not None
                hosted.post.child.disown(f"said {type(message).__name__}, which no such process says")

    def _take_reply(self, reply: Reply) -> None:
        request = self._waiting.get(reply.number)
        if request is None:
            return
        if len(reply.change) == 2:
            before, after = reply.change
            self._events.audit(f"{request.name}.{request.verb}", before, after, request.user)
        if not request.answer.done():
            if reply.ok:
                request.answer.set_result(reply.result)
            else:
                request.answer.set_exception(ControlError(str(reply.result)))

    def _take_event(self, name: str, hosted: Hosted, message: Emit) -> None:
        now = self._loop.time()
        hosted.tokens = min(float(EVENT_BURST), hosted.tokens + (now - hosted.filled) * EVENT_RATE)
        hosted.filled = now
        if hosted.tokens < 1:
            return
        hosted.tokens -= 1
        try:
            self._events.take(message.read())
        except ProtocolError as error:
            assert hosted.post.child is not None
            hosted.post.child.disown(str(error))

    def notify(self, event: Event) -> None:
        """Tell admin and alert what happened."""
        for name in TOLD:
            if name in self._hosted:
                self._hosted[name].post.send(Notice(list(event)))

    def _stand(self, standing: str) -> None:
        self.standing = standing
        if "alert" in self._hosted:
            self._hosted["alert"].post.send(Standing(standing))

    def tell_facts(self, facts: dict[str, Any]) -> None:
        """Let admin know what the supervisor knows."""
        self._facts = facts
        if "admin" in self._hosted:
            self._hosted["admin"].post.send(Snapshot("", facts))

    # Requests

    async def request(self, name: str, verb: str, arguments: Mapping[str, Any], timeout: float, user: str) -> Any:
        """Ask a process for a user; ControlError when it does not run here, refuses, ends, or is late."""
        hosted = self._hosted.get(name)
        if hosted is None or not hosted.running:
            known = ", ".join(sorted(one for one, each in self._hosted.items() if each.running)) or "none"
            raise ControlError(f"{name} does not run on this host (running: {known})")
        if len(self._waiting) >= WAITING:
            raise ControlError("too many requests at once")
        number = next(self._numbers)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting[number] = Request(name, verb, user, future)
        try:
            hosted.post.send(Ask(number, "", verb, dict(arguments), timeout))
            async with asyncio.timeout(timeout + 0.5):      # it tells of its own lateness first
                return await future
        except TimeoutError:
            raise ControlError(f"{name}: no answer to {verb} within {timeout:g} s") from None
        finally:
            del self._waiting[number]

    def _fail_requests(self, name: str, reason: str) -> None:
        for request in self._waiting.values():
            if request.name == name and not request.answer.done():
                request.answer.set_exception(ControlError(reason))

    def _forward(self, name: str, hosted: Hosted, ask: Ask) -> None:
        if not find(name).asks:
            hosted.post.send(Reply(ask.number, False, f"{name} asks nobody"))
        elif len(self._tasks) >= WAITING:
            hosted.post.send(Reply(ask.number, False, "too many requests at once"))
        else:
            task = self._loop.create_task(self._ask_for(name, hosted, ask))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _ask_for(self, name: str, hosted: Hosted, ask: Ask) -> None:
        try:
            if ask.kind:
                result = await self.request(ask.kind, ask.verb, ask.arguments, ask.timeout, f"process {name}")
            else:
                result = await self._verbs(ask.verb, ask.arguments)
            hosted.post.send(Reply(ask.number, True, result))
        except ControlError as error:
            hosted.post.send(Reply(ask.number, False, str(error)))

    # Status

    def summaries(self) -> dict[str, list[str]]:
        """What each process that has something to say of itself says to people."""
        return {name: [str(line) for line in lines] for name, hosted in sorted(self._hosted.items())
                if isinstance(lines := hosted.snapshot.get("summary"), list) and lines}

    def status(self) -> dict[str, Any]:
        """Every process by name: pid, restarts, whether it runs, and what it published."""
        return {name: {"pid": hosted.post.pid, "running": hosted.running, "restarts": hosted.post.restarts,
                       "published": hosted.snapshot} for name, hosted in sorted(self._hosted.items())}


def _none_has_ended(chosen: Mapping[str, Hosted]) -> None:
    if ended := [name for name, hosted in chosen.items() if hosted.post.restarts or not hosted.post.pid]:
        raise StartError(f"{', '.join(ended)}: does not run")


def _wanted(config: Config) -> list[str]:
    """The kinds of processes that a host with this configuration runs, who moves floating addresses last."""
    return [*(name for name, kind in CORE.items() if name != "worker" and (
                not kind.needs or getattr(getattr(config, kind.section), kind.needs))),
            *sorted((name for name in components() if name in config.roles), key=lambda name: (_floats(name), name))]


def _floats(name: str) -> bool:
    return name in components() and components()[name].floating is not None


def _section(config: Config, name: str) -> Any:
    """The section as it stands in the file; the core's own processes run with defaults where there is none."""
    section = config.section(find(name).section)
    return {} if section is None and name in CORE else section


def _services(config: Config) -> list[Any]:
    return [(service.name, [str(address) for address in service.listen],
             [(server.name, str(server.address), server.weight, str(server.source or ""))
              for server in service.servers]) for service in config.services]
