"""The supervisor: brings this host's processes up, answers signals and the control socket, brings all down.

What it owns stands in state.py; the workers are kept by workers.py, all other processes by hosts.py. This file knows
when.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from balancer import __version__
from balancer.component import WARNING, Event, components
from balancer.errors import ConfigError, ControlError, Ns7Error, StartError
from balancer.process.control import Control
from balancer.process.events import Events
from balancer.process.hosts import Hosts
from balancer.process.installed import Installed
from balancer.process.journal import log
from balancer.process.messages import (
    HAND_OVER,
    Counters,
    Ended,
    Estate,
    Notice,
    Prepared,
    Snapshot,
    Started,
    Stop,
    Succeed,
)
from balancer.process.sockets import is_local, listens_on
from balancer.process.state import NOTHING, Inheritance, State, cores
from balancer.process.steering import Steering
from balancer.process.systemd import Store, notify, take, watchdog_interval
from balancer.process.upgrade import PREPARED_WAIT, STARTED_WAIT, Predecessor, Successor
from balancer.process.workers import Workers

if TYPE_CHECKING:
    from balancer.config import Config

LOOK = 0.5                  # seconds between looks at servers without sockets and removed servers
TELL = 1.0                  # seconds between two tellings of the supervisor's facts to admin
REQUEST_TIMEOUT = 10.0      # seconds for a component's verb, unless the request says otherwise
STORED_PATIENCE = 1.0       # seconds for what is in flight, while others wait in the stored sockets for our restart
PREDECESSOR_WAIT = 20.0     # seconds for a predecessor to end when we do
STILL = 1.0                 # seconds without a sign of life after which a predecessor's worker has ended
UNWATCHED = 5.0             # seconds that workers may be missing before the watchdog is not fed any more


class Supervisor:
    """One `ns7 run`. With an `inheritance` it goes on where another one has been; while that one still runs, it is the
    `predecessor`, and has told its `estate`. stored: what the service manager holds, by name.
    """

    def __init__(self, config: Config, path: str, node: str | None, inheritance: Inheritance = NOTHING,
                 stored: Iterable[tuple[str, socket.socket]] = (), predecessor: Predecessor | None = None,
                 estate: Estate | None = None) -> None:
        self._path, self._node = path, node
        self._loop = asyncio.get_running_loop()
        self._started, self._configured = time.monotonic(), time.time()
        self._make_state_dir(config.process.state_dir)
        self._store = Store(stored)
        self._events = Events(self._on_event, log.event)
        self._installed = Installed(lambda *what: self._events.tell("upgrade", "ns7", *what))
        self._steering = Steering(config, path, self._events, log)
        self._state = State(self._steering.config, _workers(config), inheritance)
        self._kept = [number for number, one in enumerate(inheritance.listeners) if one.fileno() >= 0]
        self._workers = Workers(self._state, self._events, log, self._on_listening,
                                lambda: self._hosts.rows_changed(), estate.restarts if estate else 0)
        self._hosts = Hosts(self._state, config.process.state_dir, self._events, self._verb_of_component, log)
        self._control = Control(config.admin.socket, self._answer, config.admin.socket_group)
        self._verbs = {"status": self.status, "reload": self.reload, "upgrade": self.upgrade, "stop": self.stop,
                       "listeners": self.listeners, **self._steering.verbs()}
        self._predecessor, self._estate = predecessor, estate
        if predecessor is not None:
            self._state.lent = {inheritance.listeners[number] for number in self._kept}
        self._successor: Successor | None = None
        self._passing: asyncio.Task[None] | None = None     # from one supervisor to another, once it is agreed
        self._telling = False           # the successor hears of events
        self._leads = predecessor is None       # the service manager looks at this process
        self._stored = False
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._ready = False
        self._steering.attach(self._state.view(), self._obey)
        self._healthy_at = self._loop.time()

    @staticmethod
    def _make_state_dir(path: str) -> None:
        try:
            Path(path).mkdir(mode=0o750, parents=True, exist_ok=True)
        except OSError as error:
            raise StartError(f"cannot make the folder process.state_dir {path}: {error.strerror}") from error

    # Life

    async def run(self) -> None:
        """Serve until told to stop."""
        if self._predecessor is None:
            await self._control.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_stop_signal)
        self._loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        for address in self._state.absent:
            log(f"{address}: not an address of this host, served as soon as it is")
        if self._predecessor is not None:
            self._passing = self._loop.create_task(self._take_over(self._predecessor))
            self._passing.add_done_callback(self._on_passed)
        else:
            self._workers.start()
            if not self._state.crew.workers:
                self._on_listening()
        self._look()
        self._tell()
        interval = watchdog_interval()
        if interval:
            self._feed_watchdog(interval)
        try:
            await self._done
        finally:
            await self._end()

    def _on_listening(self) -> None:
        if not self._ready and self._predecessor is None:
            self._announce()
            self._hosts.start()

    def _announce(self) -> None:
        self._ready = True
        addresses = self._addresses()
        log(f"ready: {addresses}")
        notify("READY=1", f"STATUS={addresses}")
        self._keep_listeners()

    def _keep_listeners(self) -> None:
        """Let the service manager hold the listening sockets that the present workers use."""
        listening = self._state.listening()
        named: dict[str, list[socket.socket]] = {}
        for place, listener in listening.items():
            named.setdefault(_store_name(place.proto, place.address), []).append(listener)
        self._stored = self._store.keep(named)
        self._state.lent = set(listening.values()) if self._stored else set()

    def _addresses(self) -> str:
        workers = len(self._state.crew.workers)
        if not workers:
            return f"no workers, roles {', '.join(self._state.config.roles)}"
        addresses = " ".join(str(address) for service in self._state.config.services for address in service.listen)
        return f"{workers} workers, listening on {addresses}"

    def _look(self) -> None:
        before = dict(self._state.unreached)
        self._workers.reach_all()
        self._state.reclaim()
        self._installed.look()
        if self._predecessor is None:           # else it counts them
            self._state.count_drops()
        for server, reason in self._state.unreached.items():
            if before.get(server) != reason:
                log(f"{WARNING}{server}: cannot be reached now ({reason}), trying again")
        self._loop.call_later(LOOK, self._look)

    def _tell(self) -> None:
        self._hosts.tell_facts(self._facts())
        self._loop.call_later(TELL, self._tell)

    def _feed_watchdog(self, interval: float) -> None:
        now = self._loop.time()
        if not self._ready or self._workers.healthy():
            self._healthy_at = now
        if now - self._healthy_at < UNWATCHED and self._leads:
            notify("WATCHDOG=1")
        self._loop.call_later(interval, self._feed_watchdog, interval)

    async def _end(self) -> None:
        if self._passing is not None:
            self._passing.cancel()
        if self._successor is not None and self._leads:
            await self._successor.end()         # it has not succeeded us yet, and shall not
        before = self._predecessor if self._leads else None
        if before is not None:
            before.send(Stop())
        await self._hosts.stop()                # a virtual address is left while the workers still answer there
        await self._workers.stop(STORED_PATIENCE if self._stored and self._leads else math.inf)
        if before is not None:                  # who ends us would end it as soon as we are gone
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(before.gone.wait(), PREDECESSOR_WAIT)
        await self._control.settle()
        self._control.close()
        log("stopped")

    # Signals

    def _on_stop_signal(self) -> None:
        if not self._done.done():
            log("stopping")
            if self._leads:
                notify("STOPPING=1")
            self._done.set_result(None)

    def _on_hangup(self) -> None:
        task = self._loop.create_task(self.reload({}, "SIGHUP"))
        # What is wrong is in the log already; the task is kept alive by its own callback.
        task.add_done_callback(lambda done: None if done.cancelled() else _expected(done.exception()))

    # Verbs

    async def _answer(self, verb: str, request: Mapping[str, Any], user: str) -> Any:
        if not self._leads:                     # over a connection from before
            raise ControlError("this ns7 has handed over to another one: ask again")
        handler = self._verbs.get(verb)
        if handler is not None:
            return await handler(request, user)
        name, dot, own = verb.partition(".")
        if not dot:
            raise ControlError(f"unknown verb {verb}; verbs are {', '.join(sorted(self._verbs))} and PROCESS.VERB")
        timeout = request.get("timeout", REQUEST_TIMEOUT)
        arguments = request.get("arguments", {})
        if not isinstance(timeout, (int, float)) or not 0 < timeout <= 300 or not isinstance(arguments, dict):
            raise ControlError("timeout must be a number of seconds from 0 to 300, arguments an object")
        return await self._hosts.request(name, own, arguments, float(timeout), user)

    async def _verb_of_component(self, verb: str, arguments: Mapping[str, Any]) -> Any:
        match verb:
            case "status":
                return self._status()
            case "facts":
                return self._facts()
            case "listeners":
                return self._state.inodes()
            case "live":
                return self._steering.export()
            case "adopt":
                return await self._steering.adopt(arguments)
        raise ControlError(f"the supervisor answers components status, facts, listeners, live and adopt, not {verb}")

    def _facts(self) -> dict[str, Any]:
        """What the supervisor knows beside the table."""
        config = self._state.config
        return {
            "version": __version__, "node": config.node, "roles": list(config.roles), "pid": os.getpid(),
            "uptime": time.monotonic() - self._started, "standing": self._hosts.standing,
            "fingerprint": config.fingerprint, "configured": self._configured,
            "generation": self._state.table.generation, "ready": self._ready and self._workers.healthy(),
            "workers": self._workers.status(), "worker_restarts": self._workers.restarts,
            "retiring": self._workers.retiring + (self._predecessor is not None), "live": self._steering.shown(),
            "socket_drops": self._state.socket_drops(), "summaries": self._hosts.summaries(),
            "listen": {service.name: [str(address) for address in service.listen] for service in config.services},
            "processes": {name: {key: value for key, value in process.items() if key != "published"}
                          for name, process in self._hosts.status().items()},
        }

    def _status(self) -> dict[str, Any]:
        facts = self._facts()
        return {**facts, "components": {
            name: process["published"] for name, process in self._hosts.status().items()
            if name in components()}, "services": [
                {**view, "listen": facts["listen"].get(view["name"], [])} for view in self._state.view().services()]}

    async def status(self, request: Mapping[str, Any], user: str) -> dict[str, Any]:
        """The whole state as plain data (see docs)."""
        return self._status()

    async def listeners(self, request: Mapping[str, Any], user: str) -> dict[str, list[int]]:
        """The inodes of our listening sockets by address: sock_diag(7) shows everybody's."""
        return self._state.inodes()

    async def reload(self, request: Mapping[str, Any], user: str) -> dict[str, Any]:
        """Read the file again and apply it, live changes over it; a bad file is refused and nothing changes."""
        from balancer.config import load

        async with self._steering.lock:
            before = self._state.config.fingerprint
            notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                made = self._steering.reloaded(load(self._path, self._node))
                changes = await self._apply(made.config, _workers(made.config))
                changes += await self._steering.settle(made)
            except (ConfigError, StartError) as error:
                self._events.tell("config", self._path, "", "refused",
                                  f"{'; '.join(str(error).splitlines())}, the running configuration stays")
                raise ControlError(str(error)) from error
            finally:
                notify("READY=1")
            self._hosts.configure()
            self._configured = time.time()
            told = "; ".join(changes) or "nothing changed"
            self._events.tell("config", self._path, "", "applied", f"{told}, by {user}")
            self._events.audit("reload", before, self._state.config.fingerprint, user)
            return {"changes": changes, "generation": self._state.table.generation}

    async def _obey(self, config: Config) -> None:
        """Live changes."""
        await self._apply(config, _workers(config))
        self._hosts.configure()

    async def _apply(self, config: Config, workers: int) -> list[str]:
        children = await self._workers.prepare(workers) if self._state.reshapes(config, workers) else []
        try:
            changes, old = self._state.apply(config, workers)
        except StartError:
            for child in children:
                child.kill()
            raise
        self._workers.refresh()
        if old is not None:
            self._keep_listeners()
            await self._workers.exchange(children)
        return changes

    # Upgrade: the order of upgrade.py, first as the running supervisor, then as the new one

    async def upgrade(self, request: Mapping[str, Any], user: str) -> dict[str, Any]:
        """Let the program as it is installed now take over; when it cannot, nothing changes."""
        async with self._steering.lock:
            if self._done.done() or not self._leads:
                raise ControlError("this ns7 ends already")
            if not self._ready:
                raise ControlError("this ns7 is not ready yet")
            self._successor = successor = Successor(self._path, self._node, log)
            log(f"upgrade: a new supervisor (pid {successor.pid}) starts, as {user} wants")
            try:
                prepared = await self._hand_over(successor)
            except ControlError as error:
                await self._go_on(successor, str(error))
                raise
            self._events.audit("upgrade", f"version {__version__} (pid {os.getpid()})",
                               f"version {prepared.version} (pid {successor.pid})", user)
            notify(f"MAINPID={successor.pid}")
            self._leads = False
            self._control.hand_over()
            successor.on_stop(self._on_stop_signal)
            successor.send(Succeed())
            self._passing = self._loop.create_task(self._leave(successor, prepared.attached, self._passing))
            return {"from": __version__, "to": prepared.version, "pid": successor.pid}

    async def _hand_over(self, successor: Successor) -> Prepared:
        listeners = list(self._state.listening().values())
        successor.bequeath(listeners, self._control.listener, self._state.config_view_fd, self._state.row_descriptors(),
                           self._state.verdicts_view_fd,
                           Estate(HAND_OVER, __version__, self._control.path, self._workers.restarts))
        prepared = await successor.expect(Prepared, PREPARED_WAIT)
        self._state.lent |= {listeners[number] for number in prepared.kept}
        self._telling = True
        for event in self._events.since(""):
            successor.send(Notice(list(event)))
        await self._hosts.hand_over(lambda name, snapshot: successor.send(Snapshot(name, snapshot)))
        self._tell_counters(successor, prepared.attached)
        successor.send(Ended())
        await successor.expect(Started, STARTED_WAIT)
        return prepared

    async def _go_on(self, successor: Successor, reason: str) -> None:
        self._telling = False
        self._hosts.start()
        await successor.end()
        self._successor = None
        self._keep_listeners()
        self._events.tell("upgrade", "ns7", __version__, "refused",
                          f"{'; '.join(reason.splitlines())}, the running version stays")

    def _tell_counters(self, successor: Successor, attached: bool) -> None:
        successor.send(Snapshot("", {"socket_drops": self._state.socket_drops()}))
        if not attached:
            for service in self._state.view().counters():
                successor.send(Counters(service))

    async def _leave(self, successor: Successor, attached: bool, before: asyncio.Task[None] | None) -> None:
        """End, as soon as our workers have nothing in flight."""
        await self._workers.leave()
        if before is not None:
            await before                        # our own predecessor's counters are among ours
        self._tell_counters(successor, attached)
        await successor.heard_all()
        if not self._done.done():
            self._done.set_result(None)

    async def _take_over(self, old: Predecessor) -> None:
        started: set[str] = set()

        def on_snapshot(name: str, snapshot: dict[str, Any]) -> None:
            if not name:                        # the supervisor's own
                self._state.carry_drops(snapshot["socket_drops"])
                return
            started.add(name)
            self._hosts.take_over(name, snapshot)

        old.on_event, old.on_snapshot, old.on_counters = self._events.adopt, on_snapshot, self._state.carry
        children = await self._workers.prepare(len(self._state.crew.workers))
        await self._hosts.prepare()
        self._workers.start(children)
        await self._workers.until_listening()
        old.send(Prepared(__version__, self._kept, self._state.attached))
        await old.until(old.ended)
        self._hosts.start()
        await self._hosts.until_running(started, STARTED_WAIT)
        old.send(Started())
        await old.until(old.succeeded)
        self._leads = True
        await self._control.start(old.control)
        self._announce()
        assert self._estate is not None
        self._events.tell("upgrade", "ns7", self._estate.version, "applied", f"version {__version__}")
        await old.gone.wait()
        while (beat := self._state.inherited_beat()) < STILL:       # killed, its workers still finish
            await asyncio.sleep(STILL - beat)
        self._state.bury_inherited()
        self._hosts.rows_changed()
        self._predecessor = None

    def _on_passed(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self._done.done():
            self._done.set_exception(error)

    def _on_event(self, event: Event) -> None:
        self._hosts.notify(event)
        if self._telling and self._successor is not None:
            self._successor.send(Notice(list(event)))

    async def stop(self, request: Mapping[str, Any], user: str) -> dict[str, Any]:
        """Begin to stop: nothing new is taken, what is in flight is still answered. The pid is gone when it is over."""
        if not self._done.done():
            self._events.audit("stop", "running", "stopping", user)
        self._on_stop_signal()
        return {"pid": os.getpid()}


def _expected(error: BaseException | None) -> None:
    if error is not None and not isinstance(error, Ns7Error):
        raise error


def _workers(config: Config) -> int:
    """How many workers a host with this configuration runs."""
    return (config.process.workers or cores()) if "balancer" in config.roles else 0


def _store_name(proto: str, address: tuple[str, int]) -> str:
    """What a listening socket is called in the store, as FDNAME= may be: without a colon."""
    host, port = address
    return f"{proto}-{host.replace(':', '_')}-{port}"


async def _until_here(config: Config) -> bool:
    """No network at boot is a reason to wait: until this host has the addresses that it listens on.

    False: told to end meanwhile.
    """
    told: list[str] = []
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    while missing := [str(address) for service in config.services for address in service.listen
                      if _workers(config) and address.host not in config.floating and not is_local(address)]:
        if missing != told:
            log(f"waiting: {', '.join(missing)} is not an address of this host yet")
            told = missing
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), LOOK)
            log("stopped")
            return False
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)
    return True


def run(config: Config, path: str, node: str | None) -> None:
    """Be the supervisor of this configuration. Raises StartError when it cannot be served."""
    log.begin("", config.process.log)

    async def main() -> None:
        if not await _until_here(config):
            return
        stored = take(os.environ, os.getpid())
        await Supervisor(config, path, node, Inheritance([one for _, one in stored]), stored).run()

    uvloop.run(main())


def succeed(path: str, node: str | None, channel: int) -> None:
    """Take over from the supervisor at the other end of `channel`, which hears why when that cannot be."""
    from balancer.config import load

    async def main() -> None:
        predecessor = Predecessor(channel)
        try:
            estate, inheritance = await predecessor.inheritance()
            config = load(path, node)
            log.begin("", config.process.log)
            if config.admin.socket != estate.control:
                raise StartError(f"admin.socket is {estate.control} and becomes {config.admin.socket}: "
                                 "this change needs a restart")
            stored = [(_store_name(*what), one) for one in inheritance.listeners
                      if (what := listens_on(one)) is not None]
            await Supervisor(config, path, node, inheritance, stored, predecessor, estate).run()
        except Ns7Error as error:
            predecessor.refuse(str(error))
            raise

    uvloop.run(main())
