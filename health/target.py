"""Whom the health process probes: one target per address, whichever services have it. Plain data and its names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from balancer.table.table import ConfigTable
from balancer.table.verdicts import DOWN, PROTOCOLS, SPARED, UNKNOWN, UP, Found
from health.exchange import Exchange
from health.staleness import Copy
from health.verdict import Severity, Standing


class Where(NamedTuple):
    """Whom to ask, and from which address ("": any)."""

    host: str
    port: int
    source: str


class Place(NamedTuple):
    """A server of a service, by its slot in the table: what is found of its target is said of it."""

    service: int
    slot: int
    identity: int
    service_name: str
    name: str

    @property
    def subject(self) -> str:
        return f"{self.service_name}/{self.name}"


@dataclass
class Probed:
    """One target over one protocol. ended: of the newest probe; latency: of the newest that was answered; seconds.

    under_way: the probe that has not ended.
    """

    standing: Standing = field(default_factory=Standing)
    ended: float = 0.0
    latency: float = 0.0
    under_way: Exchange | None = None

    def found(self, spared: bool) -> Found:
        """As the table has it."""
        standing = self.standing
        return Found(SPARED if spared and standing.verdict == DOWN else standing.verdict, _ns(standing.since),
                     _ns(standing.returned), _ns(self.ended), _ns(self.latency), standing.reason)

    def resume(self, found: Found) -> None:
        """Go on from what a predecessor found, as long as that counts."""
        if found.verdict == UNKNOWN:
            return
        standing = self.standing
        standing.verdict = UP if found.verdict == UP else DOWN
        standing.severity = Severity.NONE if found.verdict == UP else Severity.DEAD
        standing.since, standing.returned = found.since_ns / 1e9, found.returned_ns / 1e9 or None
        standing.reason = found.reason


@dataclass
class Target:
    """One address. All times are CLOCK_MONOTONIC seconds, 0: never."""

    where: Where
    places: list[Place] = field(default_factory=list)
    probed: tuple[Probed, ...] = field(default_factory=lambda: tuple(Probed() for _ in PROTOCOLS))
    copies: dict[str, Copy] = field(default_factory=dict)                   # zones that are behind
    serials: dict[str, tuple[int, float]] = field(default_factory=dict)     # zone → serial, when it was served
    turn: int = 0                       # in the rotation of zones_from
    suspected: bool = False             # by the workers, and not calm since
    suspected_until: float = 0.0        # told as ended then
    doubted: bool = False               # by clients' queries, and asked for that
    hastened: float = 0.0               # when a doubt was the reason to ask
    recursion_looked: float = 0.0
    unsaid: str = ""                    # why its state has changed, while nobody was told yet

    @property
    def standings(self) -> tuple[Standing, ...]:
        return tuple(one.standing for one in self.probed)

    @property
    def latency(self) -> float:
        """Of the newest answered probe over UDP."""
        return self.probed[0].latency


def listed(config: ConfigTable, sources: Mapping[tuple[str, str], str]) -> Iterable[tuple[Where, Place]]:
    """Every server that the table has. sources: (service, server) → the address its queries are sent from."""
    for number in config.services:
        service_name = config.service_name(number)
        for entry in config.servers(number):
            if entry.state == "present":
                host, _, port = entry.address.rpartition(":")
                where = Where(host.strip("[]"), int(port), sources.get((service_name, entry.name), ""))
                yield where, Place(number, entry.slot, entry.identity, service_name, entry.name)


def _ns(seconds: float | None) -> int:
    return int(seconds * 1e9) if seconds else 0
