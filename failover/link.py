"""What this director says and hears on its interface: the wire as the interface is now, and when to announce."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from failover.address import Address, Interface
from failover.announcing import Announcements
from failover.probe import Probe
from failover.vrrp import LEAVING, RELEASED, TAKEN, UNFIT, Heard
from failover.wire import Plan, Stored, Wire

OnHeard = Callable[[int, Heard], None]      # IP version, advert


class Link:
    """`given` are a predecessor's stored frames, `counts` the owner's. Before `follow` it says and hears nothing."""

    def __init__(self, refresh: float, counts: Counter[str], given: Any, log: Callable[[str], None],
                 on_heard: OnHeard) -> None:
        self._loop = asyncio.get_running_loop()
        self._counts, self._given, self._log, self._on_heard = counts, given, log, on_heard
        self._wire: Wire | None = None
        self._probe: Probe | None = None
        self.announcements = Announcements(refresh)
        self.plan: Plan | None = None       # as the interface was seen last

    @property
    def up(self) -> bool:
        """Whether anything can be said."""
        return self._wire is not None

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions of which adverts are sent and heard."""
        return tuple(self._wire.readers) if self._wire is not None else ()

    def follow(self, config: Any, virtual: Sequence[Address], seen: Interface) -> str:
        """Sockets and frames as the interface is now; the address to speak from, "" when there is none."""
        plan = Plan.of(config, virtual, seen)
        address = next((str(one) for version in (4, 6) if plan.family(version) and (one := plan.source(version))), "")
        if not address:
            return ""
        self.plan = plan
        priorities = (LEAVING, UNFIT, RELEASED, TAKEN, config.priority)
        if self._wire is not None and (self._wire.plan, tuple(self._wire.stored.adverts)) == (plan, priorities):
            return address
        wire = Wire(Stored(plan, priorities, self._given), self._counts)
        self.close()
        self._wire = wire
        for version, reader in wire.readers.items():
            self._loop.add_reader(reader.fileno(), self._read, version)
        self._log(f"virtual router {plan.vrid} on {plan.interface}, from {address}: "
                  + ", ".join(map(str, plan.addresses)))
        return address

    def _read(self, version: int) -> None:
        if self._wire is not None:
            for heard in self._wire.heard(version):
                self._on_heard(version, heard)

    def advert(self, priority: int) -> None:
        """Send one to everybody who should hear it."""
        if self._wire is not None:
            self._wire.advert(priority)

    def announce(self, now: float) -> None:
        """Tell neighbours that the addresses are here, now and again soon, and then each `refresh`."""
        if self._wire is not None:
            self._wire.announce(self.announcements.begin(now))

    def announce_due(self, now: float) -> bool:
        """Tell again, if it is time; whether it was."""
        wake = self.announcements.wake
        if self._wire is None or wake is None or now < wake:
            return False
        self._wire.announce(self.announcements.due(now))
        return True

    def probe(self, peer: str) -> None:
        """Ask who has the addresses; peer: the active director, "" for none."""
        if self._wire is not None:
            self._end_probe()
            self._probe = Probe(self._wire.plan, peer)
            self._wire.ask(self._probe.frames())

    def stranger(self) -> str:
        """What came of the probe: why the addresses are somebody else's than the active director's, or ""."""
        found = self._probe.stranger() if self._probe is not None else ""
        self._probe = None
        return found

    def _end_probe(self) -> None:
        if self._probe is not None:
            self._probe.close()
            self._probe = None

    def export(self) -> Any:
        """The stored frames for a successor."""
        return self._wire.stored.export() if self._wire is not None else self._given

    def close(self) -> None:
        """Say and hear nothing any more."""
        self._end_probe()
        if self._wire is not None:
            for reader in self._wire.readers.values():
                self._loop.remove_reader(reader.fileno())
            self._wire.close()
            self._wire = None
