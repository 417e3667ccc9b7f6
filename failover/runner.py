"""The failover process: drives the state machine with what the link, the table and the operator say.

    adverts ─▶ Machine ─acts─▶ adverts, announcements (Wire) · the addresses (Addresses, in a thread)
    each second: the addresses renewed, the interface looked at, the director's fitness, its status told to the other

scapy and pyroute2 are loaded with this module, so a spare has them loaded. What it publishes holds the stored frames
and the state: its successor sends the next advert at once and nobody notices a transition.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from balancer.component import ACTIVE, ALONE, STANDBY, WARNING, Event, Host, Service
from balancer.errors import ControlError
from failover import fitness, frames
from failover.address import Addresses, Interface
from failover.announcing import Announcements
from failover.statuses import Statuses
from failover.vrrp import LEAVING, RELEASED, TAKEN, UNFIT, Act, Heard, Machine, Settings, State
from failover.wire import Plan, Stored, Wire

TICK = 1.0                      # seconds between two renewals of the addresses
LOOK_STRANGERS = 5              # ticks between two looks at who else holds the port
STALLED = 2.0                   # intervals by which the timer may be late
HEIR_WITHIN = 3.0               # seconds after which a predecessor's state is history
DRAIN, DRAIN_LOOK = 0.2, 0.01   # seconds for what is in flight when the address goes
QUIET_LOOKS = 5                 # in a row: what a worker has not read yet is not in flight
TAKE_WAIT = 3.0                 # seconds in which a takeover or a release must have come about
ASK_WAIT = 2.0                  # seconds for the supervisor's answer
NO_INTERFACE = "not there, or without an address"

T = TypeVar("T")


async def main(host: Host) -> None:
    """Be the failover process until told to stop."""
    await Runner(host).run()


class Runner:
    """One process: machine, wire, addresses, verbs."""

    def __init__(self, host: Host) -> None:
        self._host, self._config = host, host.config
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "netlink")
        self._tasks: set[asyncio.Task[Any]] = set()
        self._counts = Counter[str](host.snapshot.get("counts", {}))
        self._given = host.snapshot.get("frames")
        self._virtual = virtual(self._config)
        self._addresses = Addresses(self._config.interface, self._virtual)
        self._seen: Interface | None = None
        self._wire: Wire | None = None
        self._machine = Machine(self._settings(""), self._on_changed)
        self._announcements = Announcements(self._config.arp_refresh)
        self._fitness = fitness.Fitness()
        self._strangers: list[str] = []
        self._heard4_at = float("-inf")
        self._listeners: Mapping[str, list[int]] = {}
        self._fingerprint = ""
        self._troubles: dict[tuple[str, str], str] = {}
        self._since = float(host.snapshot.get("since", time.time()))
        self._timer: asyncio.TimerHandle | None = None
        self._yielding: asyncio.Task[Any] | None = None
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._ticks = 0
        self._kept = False
        self._statuses = Statuses(host, self._count, self._on_trouble)

    # Life

    async def run(self) -> None:
        """From the first look at the interface until the address is released."""
        channel = self._host.channel
        channel.serve("status", lambda _: self._shown())
        channel.serve("announce", self._announce)
        for verb, handler in (("takeover", self._take_over), ("release", self._release), ("auto", self._auto)):
            channel.serve(verb, handler, lambda: f"{self._machine.state.value}, {self._machine.wish}")
        channel.on_config(self._on_config)
        channel.on_stop(self._on_stop)
        channel.on_hand_over(self._hand_over)
        await self._open()
        self._begin()
        self._spawn(self._tick_for_ever())
        await self._ended.wait()
        await self._finish()

    async def _open(self) -> None:
        """Until the interface is there: no network at boot is a reason to try again."""
        while not self._ended.is_set():
            with contextlib.suppress(OSError):
                seen = await self._in_thread(self._addresses.look)
                if self._rewire(seen):
                    self._trouble("interface", self._config.interface, "")
                    return
            self._trouble("interface", self._config.interface, "missing", NO_INTERFACE)
            self._publish()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK):
                    await self._ended.wait()

    def _begin(self) -> None:
        now, before = self._host.clock(), self._host.snapshot
        heir = bool(before.get("active")) and 0 <= now - float(before.get("at", 0)) <= HEIR_WITHIN
        self._machine.wish = str(before.get("wish", "auto"))
        self._machine.fit = not before.get("why")
        self._fitness.why = str(before.get("why", ""))
        if self._seen is not None and self._seen.present and not heir and not self._ended.is_set():
            self._host.log(f"{WARNING}the addresses were here, and this host was not active: removed")
            self._spawn(self._remove())
        if not self._ended.is_set():
            self._do(self._machine.start(now, heir))
        if heir:
            self._spawn(self._renew())

    async def _finish(self) -> None:
        for task in self._tasks - {self._yielding}:
            task.cancel()
        if self._yielding is not None:
            await self._yielding
        elif not self._kept:
            await self._remove()
        self._statuses.close()
        if self._wire is not None:
            self._unread()
            self._wire.close()
        self._publish()
        await self._in_thread(self._addresses.close)
        self._thread.shutdown()

    def _on_stop(self) -> None:
        if self._host.channel.orphaned:             # nobody answers here any more: the address goes at once
            if self._wire is not None and self._machine.active:
                self._wire.advert(LEAVING)
            self._ended.set()
            return
        self._do(self._machine.stop(self._host.clock()))
        if self._machine.state is not State.LEAVING:
            self._ended.set()

    def _hand_over(self) -> Mapping[str, Any]:
        """A successor goes on with the address: let it be, and say nothing any more."""
        self._kept = True
        if self._timer is not None:
            self._timer.cancel()
        self._ended.set()
        return self._snapshot()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "a task failed", "exception": error})

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._thread, work)

    # Configuration

    def _settings(self, address: str) -> Settings:
        config = self._config
        return Settings(config.priority, config.interval, config.preempt == "on", address or "0.0.0.0")

    def _on_config(self, config: Any, services: tuple[Service, ...]) -> None:
        before, self._config = self._config, config
        self._announcements.refresh = config.arp_refresh
        self._spawn(self._apply(before))

    async def _apply(self, before: Any) -> None:
        """Addresses that are no longer ours go, new ones come, frames are built anew."""
        config = self._config
        if (before.interface, virtual(before)) != (config.interface, virtual(config)):
            gone = self._addresses
            keep = set(virtual(config)) if before.interface == config.interface else set()
            gone.virtual = tuple(one for one in gone.virtual if one not in keep)
            with contextlib.suppress(OSError):
                await self._in_thread(gone.remove)
            await self._in_thread(gone.close)
            self._virtual = virtual(config)
            self._addresses = Addresses(config.interface, self._virtual)
        with contextlib.suppress(OSError):
            self._rewire(await self._in_thread(self._addresses.look))
        if self._machine.active:
            await self._renew()
            self._tell_link()

    # The link

    def _rewire(self, seen: Interface) -> bool:
        """Sockets and frames as the interface is now; whether there is an address to speak from."""
        self._seen = seen
        plan = Plan.of(self._config, self._virtual, seen)
        address = next((one for version in (4, 6) if plan.family(version) and (one := plan.source(version))), None)
        if address is None:
            return False
        self._machine.settings = self._settings(str(address))
        self._statuses.configure(self._config, plan)
        priorities = (LEAVING, UNFIT, RELEASED, TAKEN, self._config.priority)
        if self._wire is not None and (self._wire.plan, tuple(self._wire.stored.adverts)) == (plan, priorities):
            return True
        wire = Wire(Stored(plan, priorities, self._given), self._counts)
        if self._wire is not None:
            self._unread()
            self._wire.close()
        self._wire = wire
        for version, reader in wire.readers.items():
            self._loop.add_reader(reader.fileno(), self._on_adverts, version)
        self._host.log(f"virtual router {plan.vrid} on {plan.interface}, from {address}: "
                       + ", ".join(map(str, plan.addresses)))
        return True

    def _unread(self) -> None:
        assert self._wire is not None
        for reader in self._wire.readers.values():
            self._loop.remove_reader(reader.fileno())

    def _on_adverts(self, version: int) -> None:
        if self._ended.is_set() or self._wire is None:
            return
        self._notice_stall()
        for heard in self._wire.heard(version):
            self._on_advert(version, heard)

    def _on_advert(self, version: int, heard: Heard) -> None:
        # Both families move together, so the second one says something only while the first one is not heard. Of two
        # equal directors the IPv4 addresses decide, where there are any.
        now, machine = self._host.clock(), self._machine
        if version == 4:
            self._heard4_at = now
        elif self._wire is not None and 4 in self._wire.readers and (
                now - self._heard4_at < machine.down_interval
                or (heard.priority == machine.priority and machine.active)):
            return
        self._do(machine.on_advert(heard, now))

    # The machine

    def _on_timer(self) -> None:
        self._timer = None
        if self._ended.is_set() or self._wire is None:
            return
        self._notice_stall()
        now, machine = self._host.clock(), self._machine
        reason = ""
        if machine.state is State.PROBING and now >= machine.wake:
            reason = self._wire.stranger(machine.peer if now - machine.heard_at < machine.down_interval else "")
            self._trouble("address", str(self._virtual[0]), "taken" if reason else "", reason)
        self._do(machine.on_failed(now, reason) if reason else machine.on_time(now))
        wake = self._announcements.wake
        if wake is not None and now >= wake and machine.active:
            self._wire.announce(self._announcements.due(now))
            self._arm()

    def _notice_stall(self) -> None:
        now, machine = self._host.clock(), self._machine
        late = now - machine.wake
        if late < STALLED * machine.settings.interval or machine.state is State.ENDED:
            return
        self._counts["stalls"] += 1
        self._host.channel.emit(Event(time.time(), "failover", self._subject, machine.state.value, "stalled",
                                      f"this host stood still for {late:.1f} s"))
        acts = machine.on_stall(now)
        self._do(acts)

    def _do(self, acts: list[Act]) -> None:
        wire, machine = self._wire, self._machine
        for act in acts:
            if act is Act.YIELD:
                self._announcements.end()
                self._yielding = self._spawn(self._yield())
            elif wire is None:
                continue
            elif act is Act.ADVERT:
                wire.advert(machine.priority)
            elif act is Act.FAREWELL:
                wire.advert(LEAVING)
            elif act is Act.PROBE:
                wire.probe(machine.peer)
            elif act is Act.CLAIM:
                if self._yielding is not None:
                    self._yielding.cancel()
                    self._yielding = None
                self._spawn(self._claim())
            elif act is Act.ANNOUNCE:
                self._tell_link()
        if machine.state is State.ENDED:
            self._ended.set()
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ended.is_set():
            return
        wake = self._machine.wake
        if self._announcements.wake is not None:
            wake = min(wake, self._announcements.wake)
        self._timer = self._loop.call_later(max(0.0, wake - self._host.clock()), self._on_timer)

    def _tell_link(self) -> None:
        if self._wire is not None:
            self._wire.announce(self._announcements.begin(self._host.clock()))

    def _on_changed(self, active: bool, reason: str) -> None:
        before, after = (STANDBY, ACTIVE) if active else (ACTIVE, STANDBY)
        self._counts["transitions"] += 1
        self._since = time.time()
        self._host.channel.emit(Event(time.time(), "failover", self._subject, before, after, reason))
        self._declare()
        self._publish()
        self._changed.set()
        if active:
            self._spawn(self._look_for_strangers())
            self._ticks = 0                         # and with the next tick: named needs a moment

    def _declare(self) -> None:
        machine, now = self._machine, self._host.clock()
        heard = now - machine.heard_at < machine.down_interval
        self._host.channel.declare(ACTIVE if machine.active else STANDBY if heard else ALONE)

    @property
    def _subject(self) -> str:
        return ", ".join(self._config.addresses)

    # The addresses

    async def _claim(self) -> None:
        try:
            await self._in_thread(self._addresses.renew)
        except OSError as error:
            self._trouble("address", str(self._virtual[0]), "failed", f"cannot be added: {error.strerror or error}")
            self._do(self._machine.on_failed(self._host.clock(), f"the address cannot be added: {error.strerror}"))
        else:
            self._trouble("address", str(self._virtual[0]), "")
            self._do(self._machine.on_claimed(self._host.clock()))

    async def _yield(self) -> None:
        """Answer what has come, then let the address go: without it nothing can be sent from it."""
        quiet, before = 0, -1
        for _ in range(round(DRAIN / DRAIN_LOOK)):
            traffic = [traffic for service in self._host.table.services() for traffic in (service, service["tcp"])]
            came = sum(each["queries"] for each in traffic)
            quiet = quiet + 1 if came == before and not any(each["inflight"] for each in traffic) else 0
            if quiet == QUIET_LOOKS:
                break
            before = came
            await asyncio.sleep(DRAIN_LOOK)
        await self._remove()

    async def _remove(self) -> None:
        try:
            await self._in_thread(self._addresses.remove)
        except OSError as error:
            self._host.log(f"{WARNING}the addresses cannot be removed, they end in a few seconds: "
                           f"{error.strerror or error}")

    async def _renew(self, seen: Interface | None = None) -> None:
        """Make the addresses last longer; one that somebody has removed comes back."""
        try:
            if seen is None:
                seen = await self._in_thread(self._addresses.look)
            lost = [one for one in self._virtual if one not in seen.present]
            await self._in_thread(self._addresses.renew)
        except OSError as error:
            self._trouble("address", str(self._virtual[0]), "failed", f"cannot be renewed: {error.strerror or error}")
            return
        for one in lost:
            self._counts["addresses lost"] += 1
            reason = "it was removed by somebody else, and is added again"
            self._trouble("address", str(one), "lost", reason)
        if lost:
            self._tell_link()
            self._arm()
        else:
            for one in self._virtual:
                self._trouble("address", str(one), "")

    # Each second

    async def _tick_for_ever(self) -> None:
        while True:
            began = self._host.clock()
            await self._tick()
            await asyncio.sleep(max(0.05, TICK - (self._host.clock() - began)))

    async def _tick(self) -> None:
        here = False
        with contextlib.suppress(OSError):
            seen = await self._in_thread(self._addresses.look)
            if self._machine.state in (State.ACTIVE, State.LEAVING):
                await self._renew(seen)
            here = self._rewire(seen)
        self._trouble("interface", self._config.interface, "" if here else "missing", NO_INTERFACE)
        await self._ask_supervisor()
        if self._ticks % LOOK_STRANGERS == 0:
            await self._look_for_strangers()
        self._ticks += 1
        self._judge()
        self._statuses.tick({**self._facts(), "fingerprint": self._fingerprint}, self._machine.active)
        self._declare()
        self._publish()

    async def _ask_supervisor(self) -> None:
        with contextlib.suppress(ControlError):
            facts = await self._host.channel.request("", "facts", {}, ASK_WAIT)
            self._fingerprint = str(facts["fingerprint"])

    async def _look_for_strangers(self) -> None:
        """Who else receives what is sent to the addresses: named binds every address that it sees coming."""
        with contextlib.suppress(ControlError, OSError):
            self._listeners = await self._host.channel.request("", "listeners", {}, ASK_WAIT)
            ports = {int(address.rpartition(":")[2]) for address in self._listeners}
            ours = {inode for inodes in self._listeners.values() for inode in inodes}
            found = await self._in_thread(lambda: self._addresses.strangers(ports, ours))
            self._strangers = [f"{address} port {port}/{proto}" for address, port, proto in found]
            self._trouble("port", self._subject, "taken" if found else "",
                          f"another program receives queries at {', '.join(self._strangers)}")

    def _judge(self) -> None:
        table, before = self._host.table, self._fitness.why
        why = fitness.reason([row.heartbeat_ns for row in table.rows[1:]], table.services(), self._strangers,
                             time.monotonic_ns())
        fit = self._fitness.look(why)
        if self._fitness.why != before:
            self._trouble("director", self._host.node, "" if fit else "degraded", self._fitness.why)
        self._do(self._machine.set_fit(fit, self._host.clock()))

    def _trouble(self, kind: str, subject: str, state: str, reason: str = "") -> None:
        """Tell when something goes wrong, becomes another trouble, and when it ends (state "")."""
        before = self._troubles.get((kind, subject), "")
        if state == before:
            return
        if state:
            self._troubles[kind, subject] = state
        else:
            del self._troubles[kind, subject]
        self._on_trouble(kind, subject, before or "ok", state or "ok", reason if state else "over")

    def _on_trouble(self, kind: str, subject: str, before: str, after: str, reason: str) -> None:
        self._host.channel.emit(Event(time.time(), kind, subject, before, after, reason))

    # What is asked

    async def _take_over(self, _: Mapping[str, Any]) -> Any:
        machine, now = self._machine, self._host.clock()
        if machine.peer_priority >= TAKEN and not machine.active and now - machine.heard_at < machine.down_interval:
            raise ControlError(f"{machine.peer} was told to take over; tell it to release first")
        if self._fitness.why:
            raise ControlError(f"this director cannot serve: {self._fitness.why}")
        self._do(machine.ask("taken", now))
        if not await self._until(True):
            machine.ask("auto", self._host.clock())
            raise ControlError(f"not active after {TAKE_WAIT:g} s; {self._troubles_told()}")
        return self._shown()

    async def _release(self, _: Mapping[str, Any]) -> Any:
        self._do(self._machine.ask("released", self._host.clock()))
        if not await self._until(False):
            raise ControlError("nobody took over, so the addresses stay here")
        if self._yielding is not None:
            await asyncio.wait([self._yielding])
        return self._shown()

    def _auto(self, _: Mapping[str, Any]) -> Any:
        self._do(self._machine.ask("auto", self._host.clock()))
        self._publish()
        return self._shown()

    def _announce(self, _: Mapping[str, Any]) -> Any:
        if not self._machine.active:
            raise ControlError("this director is not active: the addresses are not here")
        self._tell_link()
        self._arm()
        return {"announced": [str(one) for one in self._virtual]}

    async def _until(self, active: bool) -> bool:
        """Whether it becomes so; a release that failed is told by the machine being active again."""
        end = self._host.clock() + TAKE_WAIT
        while self._machine.active is not active:
            if self._host.clock() > end or (not active and self._machine.state is State.ACTIVE):
                return False
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await self._changed.wait()
        self._publish()
        return True

    def _troubles_told(self) -> str:
        return "; ".join(f"{kind} {subject} is {state}" for (kind, subject), state in self._troubles.items()) or (
            "the other director did not yield")

    # What is shown and kept

    def _count(self, what: str) -> None:
        self._counts[what] += 1

    def _facts(self) -> dict[str, Any]:
        machine = self._machine
        return {"active": machine.active, "state": machine.state.value, "since": self._since,
                "priority": machine.priority, "wish": machine.wish, "fit": not self._fitness.why,
                "why": self._fitness.why}

    def _shown(self) -> dict[str, Any]:
        machine, now = self._machine, self._host.clock()
        heard = now - machine.heard_at
        return {**self._facts(), "node": self._host.node, "addresses": list(self._config.addresses),
                "interface": self._config.interface, "virtual_router_id": self._config.virtual_router_id,
                "interval": self._config.interval, "peer": machine.peer, "peer_priority": machine.peer_priority,
                "peer_age": round(heard, 3) if machine.peer else None, "directors": self._statuses.shown(),
                "heard": self._statuses.alive(), "counts": dict(self._counts),
                "troubles": [[*key, state] for key, state in sorted(self._troubles.items())]}

    def _snapshot(self) -> dict[str, Any]:
        stored = self._wire.stored.export() if self._wire is not None else self._given
        return {**self._shown(), "at": self._host.clock(), "frames": stored, "summary": self._summary()}

    def _summary(self) -> list[str]:
        machine, addresses = self._machine, ", ".join(map(str, self._config.addresses))
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._since))
        holder = f"holds {addresses}" if machine.active else (
            f"{addresses} held by {machine.peer}" if machine.peer else f"{addresses} held by nobody that is heard")
        wish = "" if machine.wish == "auto" else f", {machine.wish} by an operator"
        lines = [f"{machine.state.value} since {since}, {holder}, priority {machine.priority}{wish}"]
        lines += [f"cannot serve: {self._fitness.why}"] if self._fitness.why else []
        lines += [f"director {node} {'active' if facts.get('active') else 'standby'}, heard {facts['age']:.1f} s ago"
                  for node, facts in sorted(self._statuses.shown().items())]
        return lines + [f"{kind} {subject} {state}" for (kind, subject), state in sorted(self._troubles.items())]

    def _publish(self) -> None:
        self._host.channel.publish(self._snapshot())


def virtual(config: Any) -> tuple[Any, ...]:
    """The addresses that move; with IPv6 ones goes a link-local one, as RFC 9568 §5.2.9 wants it."""
    found = frames.parse(config.addresses)
    if any(one.version == 6 for one in found) and not any(one.version == 6 and one.is_link_local for one in found):
        found.append(frames.link_local(config.virtual_router_id))
    return tuple(found)
