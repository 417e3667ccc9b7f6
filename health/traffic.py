"""What clients' queries say of the servers, as the workers leave it in the table. Runs in the health process.

Two degrees. A server is *suspected* when a worker has reason to pass it over. It is *doubted* before that: a query was
refused, or one waits while no answer of any kind comes. A doubt proves nothing, for nobody may be able to answer that
query; but it is reason to ask the server now, and with a probe that is refused as well it is proof.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from balancer.table.view import Owed, TableView, owed, suspects
from health.target import Target, Where

LATELY_NS = 1_000_000_000   # a refusal is news for so long
SILENT = 0.02               # seconds without an answer while one is owed
PATIENT = 4.0               # so many times the latency of its last probe, where that is longer


class Spoken(NamedTuple):
    """What is said of one target. refused: the suspicion is for a refusal."""

    target: Target
    suspected: bool
    refused: bool
    doubted: bool


@dataclass
class Doubt:
    """One server of one service. Pure: `now` is CLOCK_MONOTONIC in seconds; usual: its latency."""

    since: float | None = None          # the same answer has been owed
    seen_ns: int = 0                    # its newest answer then

    def look(self, owing: Owed | None, usual: float, now: float) -> bool:
        """Whether the server is doubted, given what it owes (None: nothing)."""
        if owing is None:
            self.since = None
            return False
        if owing.waits and (self.since is None or owing.seen_ns != self.seen_ns):
            self.since, self.seen_ns = now, owing.seen_ns
        elif not owing.waits:
            self.since = None
        refused = owing.refused_ns > 0 and int(now * 1e9) - owing.refused_ns < LATELY_NS
        return refused or (self.since is not None and now - self.since >= max(SILENT, PATIENT * usual))


class Traffic:
    """Looks at the workers' rows. suspected: whom clients' queries speak against, kept by who tells of it."""

    def __init__(self, table: TableView) -> None:
        self._table = table
        self._doubts: dict[tuple[int, int], Doubt] = {}

    def look(self, placed: Mapping[tuple[int, int], Target], now: float) -> dict[Where, Spoken]:
        """Who is doubted or suspected now. placed: the targets by (service, slot)."""
        config, rows, now_ns = self._table.config, self._table.rows, time.monotonic_ns()
        found: dict[Where, Spoken] = {}
        before, self._doubts = self._doubts, {}
        for service in config.services:
            owing = owed(config, rows, service)
            against = suspects(config, rows, service, now_ns)
            for slot in owing.keys() | against.keys():
                target = placed.get((service, slot))
                if target is None:
                    continue
                doubt = self._doubts[service, slot] = before.get((service, slot)) or Doubt()
                doubted = doubt.look(owing.get(slot), target.latency, now)
                suspected = slot in against
                if doubted or suspected:
                    said = found.get(target.where, Spoken(target, False, False, False))
                    found[target.where] = Spoken(target, said.suspected or suspected,
                                                 said.refused or bool(against.get(slot)), said.doubted or doubted)
        return found

    def heard(self, target: Target, since: float) -> bool:
        """Whether a client's query was answered by this server over UDP after `since`."""
        since_ns = int(since * 1e9)
        return any(row.seen_well_ns(place.service, place.slot) > since_ns
                   for place in target.places for row in self._table.rows)
