"""The sync process: finds out whether this host publishes or pulls, and does it until told to stop.

The publisher answers `ns7 refresh` and watches its pullers. A puller hears NOTIFYs on a UDP port of its own, looks for
itself each `poll`, and answers how it is when the publisher asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import dns.tsig

from balancer.component import WARNING, Event, Host, Service
from balancer.errors import ControlError, StartError
from balancer.namedconf import ConfError
from sync import notify
from sync.manifest import EMPTY
from sync.notify import Guard
from sync.plan import Pulls
from sync.publish import Publisher, Pullers
from sync.pull import Failure, Puller
from sync.store import Store

if TYPE_CHECKING:
    from balancer.config import Endpoint
    from sync.config import Sync

LOOK = 1.0                  # seconds between two looks for what is missing at start: an address, a port
WATCH = 10.0                # seconds between two questions how the pullers are
PATIENT = 3                 # failures in a row that may pass by themselves, before anybody is told
REASON = 300                # characters of a reason that travel


async def main(host: Host) -> None:
    """Be the sync process until told to stop."""
    await Runner(host).run()


class Runner:
    """The process: its role, its verbs, what it counts."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.config: Sync = host.config
        self.counters = Counter[str](host.snapshot.get("counters", {}))
        self.last_success = float(host.snapshot.get("last_success", 0.0))
        self._role: PublishRole | PullRole | None = None
        self._stopped = asyncio.Event()
        self._changed = asyncio.Event()
        os.umask(0o022)                     # who may read is told by the store's own permissions
        channel = host.channel
        channel.on_config(self._on_config)
        channel.on_stop(self._on_stop)
        for verb, state in (("refresh", self._generation), ("now", self._generation), ("rollback", self._generation),
                            ("pullers", None), ("status", None), ("diff", None)):
            channel.serve(verb, lambda arguments, verb=verb: self._obey(verb, arguments), state)  # type: ignore[misc]

    async def run(self) -> None:
        """Do what this host does, and anew when the configuration has changed."""
        while not self._stopped.is_set():
            self._changed.clear()
            role = await self._wait_for_role()
            if role is None:
                continue
            self._role = role
            task = asyncio.create_task(role.run())
            changed = asyncio.create_task(self._changed.wait())
            await asyncio.wait([task, changed], return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            if task.done():
                task.result()               # it never ends by itself: this raises
            if not self._stopped.is_set():
                await role.rest()           # a change of generation under way ends first
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _wait_for_role(self) -> PublishRole | PullRole | None:
        """What this host is, once its address is there; None when the configuration changed or all ends."""
        config, told = self.config, False
        while not self._changed.is_set():
            role, listen = find_role(config)
            if role:
                key, store = load_key(config), Store(config.store)
                store.open()
                if role == "publish":
                    return PublishRole(self, config, key, store)
                assert listen is not None
                return PullRole(self, config, key, store, listen)
            if not told:
                told = True
                self.host.log(f"{WARNING}this host has neither the publisher's nor a puller's address: nothing to do "
                              "until then")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LOOK)
        return None

    def _on_config(self, config: Any, _: tuple[Service, ...]) -> None:
        if config != self.config:
            try:
                load_key(config)
            except StartError as error:
                self.host.log(f"{WARNING}the running settings stay: {error}")
                return
            self.config = config
            self._changed.set()

    def _on_stop(self) -> None:
        self._stopped.set()
        self._changed.set()

    # What everybody sees

    async def _obey(self, verb: str, arguments: Mapping[str, Any]) -> Any:
        role = self._role
        if role is None:
            raise ControlError("this host is neither publisher nor puller: see sync.publisher, pullers, role")
        handler = getattr(role, f"on_{verb}", None)
        if handler is None:
            fix = {"refresh": "run it on the publisher", "now": "`ns7 refresh` is what publishes",
                   "rollback": "run it on the puller"}.get(verb, "not here")
            raise ControlError(f"{verb}: this host {'publishes' if isinstance(role, PublishRole) else 'pulls'}, {fix}"
                               + (f" ({self.config.publisher})" if verb == "refresh" else ""))
        return await handler(arguments)

    def _generation(self) -> str:
        return f"generation {self._role.generation if self._role is not None else 0}"

    def count(self, what: str) -> None:
        """One more."""
        self.counters[what] += 1

    def tell(self, kind: str, subject: str, before: str, after: str, reason: str) -> None:
        """An event."""
        self.host.channel.emit(Event(time.time(), kind, subject, before, after, reason[:500]))

    def publish(self, facts: Mapping[str, Any]) -> None:
        """Leave the state with the supervisor."""
        self.host.channel.publish({**facts, "counters": dict(self.counters), "last_success": self.last_success,
                                   "summary": self._summary(facts)})

    def _summary(self, facts: Mapping[str, Any]) -> list[str]:
        what = "publishes" if facts["role"] == "publish" else "pulls"
        last = f", last success {moment(self.last_success)}" if self.last_success else ""
        reason = f": {facts['reason']}" if facts["reason"] else ""
        lines = [f"{what}, generation {facts['generation']}, {facts['zones']} zones, {facts['state']}{reason}{last}"]
        return lines + [f"puller {each['puller']} {each['state']}, generation {each['generation']}"
                        + (f", behind for {each['behind']:.0f} s" if each["behind"] else "")
                        for each in facts["pullers"]]


class PublishRole:
    """This host publishes."""

    def __init__(self, runner: Runner, config: Sync, key: dns.tsig.Key, store: Store) -> None:
        self._runner, self._config, self._clock = runner, config, runner.host.clock
        self._publisher = Publisher(config, notify.secret_of(key), store)
        self._pullers = Pullers(key, config.pullers)
        self._notified: tuple[int, asyncio.Task[dict[str, str]] | None] = (0, None)
        self._manifest = self._publisher.published()

    async def run(self) -> None:
        """Watch the pullers."""
        self._runner.host.log(f"publishes to {', '.join(map(str, self._config.pullers)) or 'nobody'}")
        while True:
            if self._manifest.generation:
                await self._pullers.ask(self._manifest.generation, self._clock)
                self._tell_lag()
                await self._pullers.notify(self._manifest.generation, behind=True)
            self._show()
            await asyncio.sleep(min(WATCH, self._config.max_lag / 2))

    @property
    def generation(self) -> int:
        """The one that is published; 0: none yet."""
        return self._manifest.generation

    async def rest(self) -> None:
        """Until no refresh runs."""
        await self._publisher.rest()

    def _tell_lag(self) -> None:
        known = {each["puller"]: each for each in self._pullers.status(self._clock())}
        for address, lag in self._pullers.lags.items():
            before, after = lag.told, lag.change(self._config.max_lag, self._clock())
            if after:
                reason = known[str(address)]["reason"] if after == "stale" else "as new as ours"
                self._runner.tell("puller", str(address), before, after, reason)

    def _show(self) -> None:
        self._runner.publish(self._status())

    def _status(self) -> dict[str, Any]:
        manifest = self._manifest
        return {"role": "publish", "generation": manifest.generation, "zones": len(manifest.zones),
                "time": manifest.time, "state": "current" if manifest.generation else "new", "reason": "",
                "pullers": self._pullers.status(self._clock())}

    # Verbs

    async def on_refresh(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Publish what has changed, and tell the pullers."""
        result = await self._publisher.refresh(arguments.get("full") is True, arguments.get("force") is True)
        if not result["ok"]:
            self._runner.count("refreshes/refused")
            self._runner.tell("sync", "refresh", "", "refused", result["errors"][0])
            self._show()
            return result
        self._runner.count("refreshes/ok")
        self._runner.last_success = time.time()
        generation = result["generation"]
        if generation != self._manifest.generation:
            self._manifest = self._publisher.published()
            self._runner.tell("sync", "refresh", "", "applied", f"generation {generation}: {result['changes']}")
        if generation != self._notified[0]:
            self._notified = generation, asyncio.create_task(self._pullers.notify(generation))
        self._show()
        task = self._notified[1]
        return {**result, "pullers": await asyncio.shield(task) if task is not None else {}}

    async def on_pullers(self, _: Mapping[str, Any]) -> list[dict[str, Any]]:
        """How the pullers are, asked now."""
        await self._pullers.ask(self._manifest.generation, self._clock)
        self._show()
        return self._pullers.status(self._clock())

    async def on_status(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """The state, with pullers asked now."""
        await self._pullers.ask(self._manifest.generation, self._clock)
        return self._status()

    async def on_diff(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """What a refresh would publish."""
        return await self._publisher.preview()


class PullRole:
    """This host pulls."""

    def __init__(self, runner: Runner, config: Sync, key: dns.tsig.Key, store: Store, listen: Endpoint) -> None:
        self._runner, self._config, self._clock, self._listen = runner, config, runner.host.clock, listen
        self._puller = Puller(config, notify.secret_of(key), store)
        self._guard = Guard(key)
        self._pulls = Pulls(config.poll, self._clock())
        self._news = asyncio.Event()
        self._failures = self._failed = 0
        self._state, self._reason, self._untold = "starting", "", True
        self._manifest = EMPTY

    async def run(self) -> None:
        """Pull whenever it is time."""
        transport = await self._open()
        try:
            while True:
                wait = self._pulls.due - self._clock()
                if wait <= 0:
                    await self._pull(False, False)
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._news.wait()
                self._news.clear()
        finally:
            transport.close()

    @property
    def generation(self) -> int:
        """The one that is served; 0: none yet."""
        return self._manifest.generation

    async def rest(self) -> None:
        """Until no pull runs."""
        await self._puller.rest()

    async def _open(self) -> asyncio.DatagramTransport:
        loop, told = asyncio.get_running_loop(), False
        host, port = self._listen
        while True:
            try:
                transport, _ = await loop.create_datagram_endpoint(lambda: Listener(self), (host, port))
            except OSError as error:
                if not told:
                    told = True
                    self._runner.host.log(f"{WARNING}cannot listen for NOTIFY on {self._listen}, trying again: "
                                          f"{error.strerror}")
                await asyncio.sleep(LOOK)
            else:
                self._runner.host.log(f"pulls from {self._config.from_where}, hears NOTIFY on {self._listen}")
                return transport

    def heard(self, data: bytes) -> bytes | None:
        """A datagram came; the answer to it."""
        try:
            message = self._guard.hear(data, self._clock())
        except notify.Refused as error:
            self._runner.count(f"refused/{error}")
            line = self._guard.news(self._clock())
            if line:
                self._runner.host.log(f"{WARNING}{line}")
            return None
        if message.generation is not None:
            self._runner.count("notifies")
            self._pulls.notified(message.generation > self._puller.seen, self._clock())
            self._puller.seen = max(self._puller.seen, message.generation)
            self._news.set()
        return notify.reply(message, {"generation": self.generation, "state": self._state,
                                      "reason": self._reason[:REASON], "failed": self._failed})

    async def _pull(self, full: bool, force: bool) -> dict[str, Any]:
        self._pulls.started(self._clock())
        try:
            result = await self._puller.pull(full, force)
        except Failure as failure:
            result = {"failed": failure.label, "reason": str(failure)}
            self._manifest = self._puller.served_manifest()
            self._note_failure(failure)
        else:
            self._manifest = self._puller.served_manifest()
            self._note_success(result["changes"])
        self._runner.publish(self._status())
        return result

    def _note_success(self, words: str) -> None:
        self._runner.count("pulls/nothing new" if words == "nothing new" else "pulls/new")
        self._runner.last_success = time.time()
        self._pulls.ended(False, self._clock())
        was, self._state = self._state, "current"
        self._failures = self._failed = 0
        self._reason = ""
        # Told after each change, and once at start: an alert of an earlier run may be open.
        if words != "nothing new" or was != "current":
            self._runner.tell("sync", "pull", was, "current", f"generation {self.generation}: {words}")

    def _note_failure(self, failure: Failure) -> None:
        self._runner.count(f"pulls/{failure.label}")
        self._pulls.ended(failure.again, self._clock())
        self._failures += 1
        reason = str(failure)
        self._failed = 0 if failure.again else self._puller.seen
        if reason != self._reason:
            self._reason, self._untold = reason, True
        was, self._state = self._state, "retrying" if failure.again else "failed"
        if not self._untold or (failure.again and self._failures < PATIENT):
            return
        self._untold = False
        if failure.label == "bad":          # told when it became so
            self._runner.host.log(f"{WARNING}{reason}")
        else:
            self._runner.tell("sync", "pull", was, "failed", reason)

    def _status(self) -> dict[str, Any]:
        return {"role": "pull", "generation": self.generation, "zones": len(self._manifest.zones),
                "time": self._manifest.time, "state": self._state, "reason": self._reason, "pullers": [],
                "seen": self._puller.seen}

    # Verbs

    async def on_now(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Pull at once."""
        return await self._pull(arguments.get("full") is True, arguments.get("force") is True)

    async def on_status(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """The state."""
        return {**self._status(), **self._puller.kept()}

    async def on_rollback(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Serve an earlier generation."""
        generation = arguments.get("generation")
        try:
            result = await self._puller.rollback(generation if type(generation) is int else None)
        except Failure as failure:
            raise ControlError(str(failure)) from failure
        finally:
            self._manifest = self._puller.served_manifest()
        self._runner.tell("sync", "pull", self._state, "rolled back",
                          f"from generation {result['before']} to {result['generation']}")
        self._state, self._reason, self._untold = "failed", "rolled back by the operator", False
        self._runner.publish(self._status())
        return result

    async def on_diff(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """What the publisher has that is not served here."""
        try:
            return await self._puller.diff()
        except Failure as failure:
            raise ControlError(str(failure)) from failure


class Listener(asyncio.DatagramProtocol):
    """The socket on which a puller hears its publisher."""

    def __init__(self, role: PullRole) -> None:
        self._role = role
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)     # uvloop's is no subclass

    def datagram_received(self, data: bytes, addr: Any) -> None:
        answer = self._role.heard(data)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, addr)

    def error_received(self, exc: Exception) -> None:
        """An ICMP error of an answer: who asked has gone."""


def moment(at: float) -> str:
    """Seconds since 1970 for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def load_key(config: Sync) -> dns.tsig.Key:
    """The key that is shared; StartError when the file is not there, not right, or for everybody to read."""
    path = Path(config.tsig_key_file)
    try:
        if path.stat().st_mode & 0o007:
            raise StartError(f"sync.tsig_key_file {path} can be read by everybody: chmod o= {path}")
        return notify.load_key(path.read_text())
    except (OSError, UnicodeDecodeError, ConfError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StartError(f"sync.tsig_key_file {path}: {reason} (make one: tsig-keygen sync)") from error


def find_role(config: Sync) -> tuple[str, Endpoint | None]:
    """("publish" or "pull" or "" when that cannot be told yet, where a puller listens)."""
    if config.role == "publish" or (config.role == "auto" and _is_ours(config.publisher)):
        return "publish", None
    listen = config.listen or next((each for each in config.pullers if _is_ours(each.host)), None)
    if listen is None and config.role == "pull" and len(config.pullers) == 1:
        listen = config.pullers[0]
    return ("pull", listen) if listen is not None else ("", None)


def _is_ours(address: str) -> bool:
    """Whether an address is this host's: it can be bound."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((address, 0))
        except OSError:
            return False
    return True
