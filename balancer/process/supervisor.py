"""The supervisor: keeps the workers running, answers signals and the control socket.

What is handed to the workers stands in state.py; this file knows when.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import uvloop

from balancer import __version__
from balancer.errors import ConfigError, ControlError, Ns7Error, StartError
from balancer.process.children import Child
from balancer.process.control import Control
from balancer.process.messages import Changed, Listening, Message, Stop
from balancer.process.state import State, WorkerState, cores
from balancer.process.systemd import notify, watchdog_interval
from balancer.table.view import services as view_services

if TYPE_CHECKING:
    from balancer.config import Config

LOOK = 0.5                  # seconds between looks at servers without sockets and removed servers
HUNG_AFTER = 5.0            # seconds without heartbeat after which the watchdog is not fed any more
STOP_GRACE = 2.0            # seconds beyond the longest timeout that a stopping worker may take


def log(line: str) -> None:
    """One line per event; whoever runs us adds the time."""
    print(f"ns7 {line}", file=sys.stderr, flush=True)


class Supervisor:
    """Owns the state and the children of one `ns7 run`."""

    def __init__(self, config: Config, path: str, node: str | None) -> None:
        self._path, self._node = path, node
        self._loop = asyncio.get_running_loop()
        self._started = time.monotonic()
        self._state = State(config, config.process.workers or cores())
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._listening: set[int] = set()
        self._ready = False
        self._children = [Child("worker", number, self._hand_over, self._on_message, log)
                          for number in range(len(self._state.workers))]
        self._handed: set[int] = set()
        self._control = Control(config.admin.socket, {
            "status": lambda _: self.status(), "reload": lambda _: self.reload(), "stop": lambda _: self.stop()})

    async def run(self) -> None:
        """Serve until told to stop."""
        await self._control.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.stop)
        self._loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        for address in self._state.absent:
            log(f"{address}: not an address of this host, served as soon as it is")
        for worker in self._state.workers:
            self._state.reach(worker)
        for child in self._children:
            child.start()
        self._look()
        interval = watchdog_interval()
        if interval:
            self._feed_watchdog(interval)
        await self._done
        await self._end()

    # Children

    def _hand_over(self, child: Child) -> None:
        first = child.number not in self._handed
        self._handed.add(child.number)
        self._listening.discard(child.number)
        self._state.hand_over(self._worker(child), child.channel.send, first)

    def _worker(self, child: Child) -> WorkerState:
        return self._state.workers[child.number]

    def _on_message(self, child: Child, message: Message) -> None:
        if not isinstance(message, Listening):
            log(f"worker {child.number} said {type(message).__name__}, which no worker says: ended")
            child.kill()
            return
        self._listening.add(child.number)
        if message.adopted:
            log(f"worker {child.number}: goes on with {message.adopted} queries in flight")
        if not self._ready and len(self._listening) == len(self._children):
            self._ready = True
            addresses = " ".join(str(address) for service in self._state.config.services for address in service.listen)
            log(f"ready: {len(self._children)} workers, listening on {addresses}")
            notify("READY=1", f"STATUS={len(self._children)} workers, listening on {addresses}")

    def _look(self) -> None:
        before = dict(self._state.unreached)
        for child in self._children:
            self._reach(child)
        self._state.drop_removed()
        for server, reason in self._state.unreached.items():
            if before.get(server) != reason:
                log(f"{server}: cannot be reached now ({reason}), trying again")
        self._loop.call_later(LOOK, self._look)

    def _reach(self, child: Child) -> None:
        """Hand over sockets toward servers that had none. A dead worker's successor gets them with the rest."""
        worker = self._worker(child)
        opened = self._state.reach(worker)
        if opened and child.alive:
            for message in opened:
                ends = worker.servers[message.service, message.slot]
                child.channel.send(message, [end.fileno() for end in ends])
            child.channel.send(Changed())

    def _feed_watchdog(self, interval: float) -> None:
        if all(self._state.heartbeat_age(worker) < HUNG_AFTER for worker in self._state.workers) or not self._ready:
            notify("WATCHDOG=1")
        self._loop.call_later(interval, self._feed_watchdog, interval)

    # Verbs

    def status(self) -> dict[str, Any]:
        """The whole state as plain data (see docs)."""
        rows = [worker.row for worker in self._state.workers]
        views = view_services(self._state.table, rows)
        for view, service in zip(views, self._state.config.services, strict=True):
            view["listen"] = [str(address) for address in service.listen]
        return {
            "version": __version__, "pid": os.getpid(), "uptime": time.monotonic() - self._started,
            "generation": self._state.table.generation, "ready": self._ready,
            "workers": [{
                "worker": child.number, "pid": child.pid, "restarts": child.restarts,
                "heartbeat_age": self._state.heartbeat_age(self._worker(child)),
                "inflight": sum(self._worker(child).row.service(service)["inflight"] for service in range(len(views))),
            } for child in self._children],
            "services": views,
        }

    def reload(self) -> dict[str, Any]:
        """Read the file again and apply it; a bad file is refused and nothing changes."""
        from balancer.config import load

        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            changes = self._state.apply(load(self._path, self._node))
        except (ConfigError, StartError) as error:
            log(f"reload refused, the running configuration stays: {error}")
            raise ControlError(str(error)) from error
        finally:
            notify("READY=1")
        for child in self._children:
            self._reach(child)
            if child.alive:
                for message in self._state.admissions():
                    child.channel.send(message)
                child.channel.send(Changed())
        log(f"reloaded: {'; '.join(changes) or 'nothing changed'}")
        return {"changes": changes, "generation": self._state.table.generation}

    def _on_hangup(self) -> None:
        try:
            self.reload()
        except Ns7Error:
            pass                                # told in the log already

    def stop(self) -> dict[str, Any]:
        """Begin to stop: nothing new is taken, what is in flight is still answered."""
        if not self._done.done():
            log("stopping")
            notify("STOPPING=1")
            self._done.set_result(None)
        return {}

    async def _end(self) -> None:
        ends = []
        for child in self._children:
            child.release()
            if child.alive:
                child.channel.send(Stop())
                ends.append(child.gone)
        if ends:
            longest = max(service.udp_timeout for service in self._state.config.services)
            await asyncio.wait(ends, timeout=longest + STOP_GRACE)
        for child in self._children:
            child.kill()
        self._control.close()
        log("stopped")


def run(config: Config, path: str, node: str | None) -> None:
    """Be the supervisor of this configuration. Raises StartError when it cannot be served."""
    async def main() -> None:
        await Supervisor(config, path, node).run()

    uvloop.run(main())
