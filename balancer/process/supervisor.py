"""The supervisor: brings this host's processes up, answers signals and the control socket, brings all down.

What it owns stands in state.py; the workers are kept by workers.py, all other processes by hosts.py. This file knows
when.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from balancer import __version__
from balancer.component import components
from balancer.errors import ConfigError, ControlError, Ns7Error, StartError
from balancer.process.control import Control
from balancer.process.events import Events
from balancer.process.hosts import Hosts
from balancer.process.state import State, cores
from balancer.process.steering import Steering
from balancer.process.systemd import notify, watchdog_interval
from balancer.process.workers import Workers

if TYPE_CHECKING:
    from balancer.config import Config

LOOK = 0.5                  # seconds between looks at servers without sockets and removed servers
TELL = 1.0                  # seconds between two tellings of the supervisor's facts to admin
REQUEST_TIMEOUT = 10.0      # seconds for a component's verb, unless the request says otherwise
UNWATCHED = 5.0             # seconds that workers may be missing before the watchdog is not fed any more


def log(line: str) -> None:
    """One line per event; whoever runs us adds the time. A reader that has gone is no reason to fail."""
    with contextlib.suppress(OSError):
        print(f"ns7 {line}", file=sys.stderr, flush=True)


class Supervisor:
    """One `ns7 run`."""

    def __init__(self, config: Config, path: str, node: str | None) -> None:
        self._path, self._node = path, node
        self._loop = asyncio.get_running_loop()
        self._started = time.monotonic()
        self._make_state_dir(config.process.state_dir)
        self._events = Events(lambda event: self._hosts.notify(event))
        self._steering = Steering(config, path, self._events, log)
        self._state = State(self._steering.config, _workers(config))
        self._workers = Workers(self._state, self._events, log, self._on_listening,
                                lambda: self._hosts.rows_changed())
        self._hosts = Hosts(self._state, config.process.state_dir, self._events, self._verb_of_component, log)
        self._control = Control(config.admin.socket, self._answer)
        self._verbs = {"status": self.status, "reload": self.reload, "stop": self.stop, **self._steering.verbs()}
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
        await self._control.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_stop_signal)
        self._loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        for address in self._state.absent:
            log(f"{address}: not an address of this host, served as soon as it is")
        self._workers.start()
        if not self._state.crew.workers:
            self._on_listening()
        self._look()
        self._tell()
        interval = watchdog_interval()
        if interval:
            self._feed_watchdog(interval)
        await self._done
        await self._end()

    def _on_listening(self) -> None:
        if self._ready:
            return
        self._ready = True
        addresses = self._addresses()
        log(f"ready: {addresses}")
        notify("READY=1", f"STATUS={addresses}")
        self._hosts.start()

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
        for server, reason in self._state.unreached.items():
            if before.get(server) != reason:
                log(f"{server}: cannot be reached now ({reason}), trying again")
        self._loop.call_later(LOOK, self._look)

    def _tell(self) -> None:
        self._hosts.tell_facts(self._facts())
        self._loop.call_later(TELL, self._tell)

    def _feed_watchdog(self, interval: float) -> None:
        now = self._loop.time()
        if not self._ready or self._workers.healthy():
            self._healthy_at = now
        if now - self._healthy_at < UNWATCHED:
            notify("WATCHDOG=1")
        self._loop.call_later(interval, self._feed_watchdog, interval)

    async def _end(self) -> None:
        await asyncio.gather(self._hosts.stop(), self._workers.stop())
        self._control.close()
        log("stopped")

    # Signals

    def _on_stop_signal(self) -> None:
        if not self._done.done():
            log("stopping")
            notify("STOPPING=1")
            self._done.set_result(None)

    def _on_hangup(self) -> None:
        task = self._loop.create_task(self.reload({}, "SIGHUP"))
        # What is wrong is in the log already; the task is kept alive by its own callback.
        task.add_done_callback(lambda done: None if done.cancelled() else _expected(done.exception()))

    # Verbs

    async def _answer(self, verb: str, request: Mapping[str, Any], user: str) -> Any:
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
        return await self._hosts.request(name, own, arguments, float(timeout))

    async def _verb_of_component(self, verb: str, arguments: Mapping[str, Any]) -> Any:
        match verb:
            case "status":
                return self._status()
            case "live":
                return self._steering.export()
            case "adopt":
                return await self._steering.adopt(arguments)
        raise ControlError(f"the supervisor answers components status, live and adopt, not {verb}")

    def _facts(self) -> dict[str, Any]:
        """What the supervisor knows beside the table."""
        config = self._state.config
        return {
            "version": __version__, "node": config.node, "roles": list(config.roles), "pid": os.getpid(),
            "uptime": time.monotonic() - self._started, "generation": self._state.table.generation,
            "ready": self._ready and self._workers.healthy(), "workers": self._workers.status(),
            "worker_restarts": self._workers.restarts, "retiring": self._workers.retiring,
            "live": self._steering.shown(),
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

    async def reload(self, request: Mapping[str, Any], user: str) -> dict[str, Any]:
        """Read the file again and apply it, live changes over it; a bad file is refused and nothing changes."""
        from balancer.config import load

        async with self._steering.lock:
            notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                made = self._steering.reloaded(load(self._path, self._node))
                changes = await self._apply(made.config, _workers(made.config))
                changes += await self._steering.settle(made)
            except (ConfigError, StartError) as error:
                log(f"reload refused, the running configuration stays: {error}")
                self._events.tell("config", self._path, "", "refused", str(error).splitlines()[0])
                raise ControlError(str(error)) from error
            finally:
                notify("READY=1")
            self._hosts.configure()
            told = "; ".join(changes) or "nothing changed"
            log(f"reloaded by {user}: {told}")
            self._events.tell("config", self._path, "", "applied", f"{told}, by {user}")
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
            await self._workers.exchange(children)
        return changes

    async def stop(self, request: Mapping[str, Any], user: str) -> dict[str, Any]:
        """Begin to stop: nothing new is taken, what is in flight is still answered."""
        log(f"asked to stop by {user}")
        self._on_stop_signal()
        return {}


def _expected(error: BaseException | None) -> None:
    if error is not None and not isinstance(error, Ns7Error):
        raise error


def _workers(config: Config) -> int:
    """How many workers a host with this configuration runs."""
    return (config.process.workers or cores()) if "balancer" in config.roles else 0


def run(config: Config, path: str, node: str | None) -> None:
    """Be the supervisor of this configuration. Raises StartError when it cannot be served."""
    async def main() -> None:
        await Supervisor(config, path, node).run()

    uvloop.run(main())
