"""Entry of the failover process: puts its parts together, and looks at everything once a second.

    Director   the state machine, its timer, its acts            Link      adverts, announcements, probes
    Holding    the addresses, through netlink, in a thread       Statuses  what directors tell each other
    SelfCheck  whether this director can serve                   Verbs     what operators ask

scapy and pyroute2 are loaded with this module, so a spare has them loaded. What it publishes holds the stored frames
and the state: its successor sends the next advert at once and nobody notices a transition.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from balancer.component import WARNING, Host, Service
from failover.director import Director
from failover.holding import Holding
from failover.selfcheck import SelfCheck
from failover.statuses import Statuses
from failover.tasks import Tasks
from failover.troubles import Troubles
from failover.verbs import Verbs
from failover.vrrp import State

TICK = 1.0                      # seconds between two renewals of the addresses
HEIR_WITHIN = 3.0               # seconds after which a predecessor's state is history
NO_INTERFACE = "not there, or without an address"


async def main(host: Host) -> None:
    """Be the failover process until told to stop."""
    await Runner(host).run()


class Runner:
    """The life of one process."""

    def __init__(self, host: Host) -> None:
        self._host, self._config = host, host.config
        self._tasks = Tasks()
        self._counts = Counter[str](host.snapshot.get("counts", {}))
        self._troubles = Troubles(host.channel.emit, host.snapshot.get("troubles", ()))
        self._holding = Holding(self._config, self._troubles, self._counts, host.log)
        self._director = Director(host, self._holding, self._troubles, self._counts, self._tasks, self._on_moved)
        self._check = SelfCheck(host, self._holding, self._troubles, lambda: self._director.subject)
        self._statuses = Statuses(host, self._counts, self._troubles.tell, self._tasks)
        self._verbs = Verbs(host, self._director, self._holding, self._check, self._troubles, self._told)
        self._present = False           # an address was here when the interface was seen first
        self._kept = False              # a successor has the addresses

    async def run(self) -> None:
        """From the first look at the interface until the address is released."""
        channel = self._host.channel
        channel.serve("status", lambda _: self._shown())
        self._verbs.serve(channel)
        channel.on_config(self._on_config)
        channel.on_stop(self._on_stop)
        channel.on_hand_over(self._hand_over)
        await self._open()
        self._begin()
        self._tasks.spawn(self._tick_for_ever())
        await self._director.ended.wait()
        await self._finish()

    async def _open(self) -> None:
        """Until the interface is there: no network at boot is a reason to try again."""
        ended = self._director.ended
        while not ended.is_set():
            if await self._look():
                return
            self._publish()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK):
                    await ended.wait()

    def _begin(self) -> None:
        director, before = self._director, self._host.snapshot
        heir = bool(before.get("active")) and 0 <= self._host.clock() - float(before.get("at", 0)) <= HEIR_WITHIN
        director.machine.wish = str(before.get("wish", "auto"))
        director.machine.fit = not self._check.why
        if director.ended.is_set():
            return
        if self._present and not heir:
            self._host.log(f"{WARNING}the addresses were here, and this host was not active: removed")
            self._tasks.spawn(self._holding.remove())
        director.start(heir)
        if heir:
            self._holding.adopt()
            self._tasks.spawn(self._keep())

    async def _finish(self) -> None:
        yielding = self._director.yielding
        self._tasks.cancel(but=yielding)
        if yielding is not None:
            await yielding
        elif not self._kept:
            await self._holding.remove()
        self._statuses.close()
        self._publish()
        self._director.link.close()
        await self._holding.close()

    def _on_stop(self) -> None:
        if self._host.channel.orphaned:             # nobody answers here any more: the address goes at once
            self._director.vanish()
        else:
            self._director.leave()

    def _hand_over(self) -> Mapping[str, Any]:
        """A successor goes on with the address: let it be."""
        self._kept = True
        self._director.hand_over()
        return self._snapshot()

    def _on_moved(self, active: bool) -> None:
        self._publish()
        if active:
            self._tasks.spawn(self._check.look_for_strangers())
            self._check.look_soon()

    # Configuration

    def _on_config(self, config: Any, services: tuple[Service, ...]) -> None:
        self._config = config
        self._tasks.spawn(self._apply(config))

    async def _apply(self, config: Any) -> None:
        await self._holding.configure(config)
        await self._look()
        if self._director.machine.active:
            await self._keep()
            self._director.announce()

    # Each second

    async def _tick_for_ever(self) -> None:
        while True:
            began = self._host.clock()
            await self._tick()
            await asyncio.sleep(max(0.05, TICK - (self._host.clock() - began)))

    async def _tick(self) -> None:
        machine = self._director.machine
        await self._look(keep=machine.state in (State.ACTIVE, State.LEAVING))
        fit = await self._check.look()
        self._director.do(machine.set_fit(fit, self._host.clock()))
        self._statuses.tick({**self._facts(), "fingerprint": self._check.fingerprint}, machine.active)
        self._director.declare()
        self._publish()

    async def _look(self, keep: bool = False) -> bool:
        """See the interface as it is now, and speak from it; whether that can be done. keep: the addresses are ours."""
        address = ""
        with contextlib.suppress(OSError):
            seen = await self._holding.look()
            # They may have been given up since the tick began.
            if keep and self._holding.kept and await self._holding.keep(seen):
                self._director.announce()
            self._present = bool(seen.present)
            address = self._director.link.follow(self._config, self._holding.virtual, seen)
        if address:
            self._director.configure(self._config, address)
            assert self._director.link.plan is not None
            self._statuses.configure(self._config, self._director.link.plan)
        self._troubles.set("interface", self._config.interface, "" if address else "missing", NO_INTERFACE)
        return bool(address)

    async def _keep(self) -> None:
        if await self._holding.keep():
            self._director.announce()

    # What is shown and kept

    def _facts(self) -> dict[str, Any]:
        machine, why = self._director.machine, self._check.why
        return {"active": machine.active, "state": machine.state.value, "since": self._director.since,
                "priority": machine.priority, "wish": machine.wish, "fit": not why, "why": why}

    def _shown(self) -> dict[str, Any]:
        machine, config = self._director.machine, self._config
        return {**self._facts(), "node": self._host.node, "addresses": list(config.addresses),
                "interface": config.interface, "virtual_router_id": config.virtual_router_id,
                "interval": config.interval, "peer": machine.peer, "peer_priority": machine.peer_priority,
                "peer_age": round(self._host.clock() - machine.heard_at, 3) if machine.peer else None,
                "directors": self._statuses.shown(), "heard": self._statuses.alive(), "counts": dict(self._counts),
                "troubles": self._troubles.shown()}

    def _snapshot(self) -> dict[str, Any]:
        return {**self._shown(), "at": self._host.clock(), "frames": self._director.link.export(),
                "told": self._statuses.told, "summary": self._summary()}

    def _summary(self) -> list[str]:
        """For `ns7 status`: who holds the addresses, why this director cannot, whom it hears, what is wrong."""
        machine, addresses = self._director.machine, self._director.subject
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._director.since))
        holder = f"holds {addresses}" if machine.active else (
            f"{addresses} held by {machine.peer}" if machine.peer else f"{addresses} held by nobody that is heard")
        wish = "" if machine.wish == "auto" else f", {machine.wish} by an operator"
        lines = [f"{machine.state.value} since {since}, {holder}, priority {machine.priority}{wish}"]
        lines += [f"cannot serve: {self._check.why}"] if self._check.why else []
        lines += [f"director {node} {'active' if facts.get('active') else 'standby'}, heard {facts['age']:.1f} s ago"
                  for node, facts in sorted(self._statuses.shown().items())]
        return lines + [f"{kind} {subject} {state}" for kind, subject, state in self._troubles.shown()]

    def _publish(self) -> None:
        self._host.channel.publish(self._snapshot())

    def _told(self) -> dict[str, Any]:
        self._publish()
        return self._shown()
