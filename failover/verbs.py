"""What operators ask of the failover process: `ns7 failover …` and `ns7 arp`. `status` is the runner's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from balancer.component import Host, Link
from balancer.errors import ControlError
from failover.director import Director
from failover.holding import Holding
from failover.selfcheck import SelfCheck
from failover.troubles import Troubles
from failover.vrrp import TAKEN

MOVE_WAIT = 3.0                 # seconds in which a takeover or a release must have come about

Arguments = Mapping[str, Any]


class Verbs:
    """`told()` publishes the state and returns it as it is shown."""

    def __init__(self, host: Host, director: Director, holding: Holding, check: SelfCheck, troubles: Troubles,
                 told: Callable[[], Any]) -> None:
        self._clock, self._director, self._holding = host.clock, director, holding
        self._check, self._troubles, self._told = check, troubles, told

    def serve(self, channel: Link) -> None:
        """Answer them from now on."""
        machine = self._director.machine
        channel.serve("announce", self._announce)
        for verb, handler in (("takeover", self._take_over), ("release", self._release), ("auto", self._auto)):
            channel.serve(verb, handler, lambda: f"{machine.state.value}, {machine.wish}")

    async def _take_over(self, _: Arguments) -> Any:
        director, machine = self._director, self._director.machine
        if machine.peer_priority >= TAKEN and not machine.active and director.hears_peer:
            raise ControlError(f"{machine.peer} was told to take over; tell it to release first")
        if self._check.why:
            raise ControlError(f"this director cannot serve: {self._check.why}")
        director.do(machine.ask("taken", self._clock()))
        if not await director.becomes(active=True, seconds=MOVE_WAIT):
            machine.ask("auto", self._clock())
            why = str(self._troubles) or "the other director did not yield"
            raise ControlError(f"not active after {MOVE_WAIT:g} s; {why}")
        return self._told()

    async def _release(self, _: Arguments) -> Any:
        director = self._director
        director.do(director.machine.ask("released", self._clock()))
        if not await director.becomes(active=False, seconds=MOVE_WAIT):
            raise ControlError("nobody took over, so the addresses stay here")
        if director.yielding is not None:
            await asyncio.wait([director.yielding])
        return self._told()

    def _auto(self, _: Arguments) -> Any:
        self._director.do(self._director.machine.ask("auto", self._clock()))
        return self._told()

    def _announce(self, _: Arguments) -> Any:
        if not self._director.machine.active:
            raise ControlError("this director is not active: the addresses are not here")
        self._director.announce()
        return {"announced": [str(one) for one in self._holding.virtual]}
