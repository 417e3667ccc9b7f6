"""Drives the state machine: what is heard and what time it is go in, and what shall be done is done.

    adverts, timer, wishes ─▶ Machine ─acts─▶ adverts, announcements (Link) · the addresses (Holding)
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from balancer.component import ACTIVE, ALONE, STANDBY, Event, Host
from failover.holding import Holding
from failover.link import Link
from failover.tasks import Tasks
from failover.troubles import Troubles
from failover.vrrp import LEAVING, Act, Heard, Machine, Settings, State

STALLED = 2.0                   # intervals by which the timer may be late


def settings(config: Any, address: str) -> Settings:
    """What the machine wants of the section; address: the one that adverts are sent from."""
    return Settings(config.priority, config.interval, config.preempt == "on", address or "0.0.0.0")


class Director:
    """`on_moved(active)` is called when it has become active or standby. ended: it has left, or was told to."""

    def __init__(self, host: Host, holding: Holding, troubles: Troubles, counts: Counter[str], tasks: Tasks,
                 on_moved: Callable[[bool], None]) -> None:
        self._host, self._config = host, host.config
        self._holding, self._troubles, self._counts, self._tasks = holding, troubles, counts, tasks
        self._on_moved = on_moved
        self._loop = asyncio.get_running_loop()
        self.link = Link(host.config.arp_refresh, counts, host.snapshot.get("frames"), host.log, self._on_heard)
        self.machine = Machine(settings(host.config, ""), self._on_changed)
        self.since = float(host.snapshot.get("since", time.time()))     # it is what it is; seconds since 1970
        self.ended = asyncio.Event()
        self.yielding: asyncio.Task[Any] | None = None                  # the addresses are being given up
        self._heard4_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    def configure(self, config: Any, address: str) -> None:
        """Obey this section, speaking from this address."""
        self._config = config
        self.link.announcements.refresh = config.arp_refresh
        self.machine.settings = settings(config, address)

    # Life

    def start(self, heir: bool) -> None:
        """Begin; heir: an active predecessor has just ended."""
        self.do(self.machine.start(self._host.clock(), heir))

    def leave(self) -> None:
        """Leave for good; `ended` is set when that is done."""
        self.do(self.machine.stop(self._host.clock()))
        if self.machine.state is not State.LEAVING:
            self.ended.set()

    def vanish(self) -> None:
        """Nobody answers here any more: say so and end."""
        self._end(LEAVING)

    def hand_over(self) -> None:
        """A successor goes on: one more advert, so that it has all the time there can be, and silence."""
        self._end(self.machine.priority)

    def _end(self, last: int) -> None:
        if self.machine.active:
            self.link.advert(last)
        if self._timer is not None:
            self._timer.cancel()
        self.ended.set()

    # What happens

    def _on_heard(self, version: int, heard: Heard) -> None:
        # Both families move together, so the second one says something only while the first one is not heard. Of two
        # equal directors the IPv4 addresses decide, where there are any.
        if self.ended.is_set():
            return
        self._notice_stall()
        now, machine = self._host.clock(), self.machine
        if version == 4:
            self._heard4_at = now
        elif 4 in self.link.versions and (
                now - self._heard4_at < machine.down_interval
                or (heard.priority == machine.priority and machine.active)):
            return
        self.do(machine.on_advert(heard, now))

    def _on_timer(self) -> None:
        self._timer = None
        if self.ended.is_set() or not self.link.up:
            return
        self._notice_stall()
        now, machine = self._host.clock(), self.machine
        reason = ""
        if machine.state is State.PROBING and now >= machine.wake:
            reason = self.link.stranger()
            self._troubles.set("address", str(self._holding.virtual[0]), "taken" if reason else "", reason)
        self.do(machine.on_failed(now, reason) if reason else machine.on_time(now))
        if machine.active and self.link.announce_due(now):
            self._arm()

    def _notice_stall(self) -> None:
        now, machine = self._host.clock(), self.machine
        late = now - machine.wake
        if late < STALLED * machine.settings.interval or machine.state is State.ENDED:
            return
        self._counts["stalls"] += 1
        self._host.channel.emit(Event(time.time(), "failover", self.subject, machine.state.value, "stalled",
                                      f"this host stood still for {late:.1f} s"))
        self.do(machine.on_stall(now))

    def _on_changed(self, active: bool, reason: str) -> None:
        before, after = (STANDBY, ACTIVE) if active else (ACTIVE, STANDBY)
        self._counts["transitions"] += 1
        self.since = time.time()
        self._host.channel.emit(Event(time.time(), "failover", self.subject, before, after, reason))
        self.declare()
        self._changed.set()
        self._on_moved(active)

    # What is done

    def do(self, acts: list[Act]) -> None:
        """Do it, in order, and see when the machine wants to be woken."""
        link, machine = self.link, self.machine
        for act in acts:
            if act is Act.YIELD:
                link.announcements.end()
                self.yielding = self._tasks.spawn(self._yield())
            elif act is Act.CLAIM and link.up:
                if self.yielding is not None:
                    self.yielding.cancel()
                    self.yielding = None
                self._tasks.spawn(self._claim())
            elif act is Act.ADVERT:
                link.advert(machine.priority)
            elif act is Act.FAREWELL:
                link.advert(LEAVING)
            elif act is Act.PROBE:
                link.probe(machine.peer if self.hears_peer else "")
            elif act is Act.ANNOUNCE:
                link.announce(self._host.clock())
        if machine.state is State.ENDED:
            self.ended.set()
        self._arm()

    def announce(self) -> None:
        """Tell the link where the addresses are, now and as after a takeover."""
        self.link.announce(self._host.clock())
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.ended.is_set():
            return
        wake = self.machine.wake
        if self.link.announcements.wake is not None:
            wake = min(wake, self.link.announcements.wake)
        self._timer = self._loop.call_later(max(0.0, wake - self._host.clock()), self._on_timer)

    async def _claim(self) -> None:
        why = await self._holding.claim()
        now = self._host.clock()
        self.do(self.machine.on_failed(now, f"the address {why}") if why else self.machine.on_claimed(now))

    async def _yield(self) -> None:
        await self._holding.drain(self._host.table)
        await self._holding.remove()

    # What it is

    @property
    def subject(self) -> str:
        """The addresses, as events name them."""
        return ", ".join(self._config.addresses)

    @property
    def hears_peer(self) -> bool:
        """Whether another active director was heard lately."""
        return self._host.clock() - self.machine.heard_at < self.machine.down_interval

    def declare(self) -> None:
        """Tell ns7 what this host is."""
        self._host.channel.declare(ACTIVE if self.machine.active else STANDBY if self.hears_peer else ALONE)

    async def becomes(self, active: bool, seconds: float) -> bool:
        """Whether it becomes so; a release that failed is told by the machine being active again."""
        end = self._host.clock() + seconds
        while self.machine.active is not active:
            if self._host.clock() > end or (not active and self.machine.state is State.ACTIVE):
                return False
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await self._changed.wait()
        return True
