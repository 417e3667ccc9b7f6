"""Verdicts into the server table, and who stays in use although it is down. Runs in the health process."""

from __future__ import annotations

from balancer.table.table import ConfigTable
from balancer.table.verdicts import PROTOCOLS, UP, Verdicts
from health.roster import Roster
from health.target import Place, Target
from health.verdict import Standing, spared


class Writer:
    """changed: some verdict has changed and the workers do not know yet; `settle` lets them know."""

    def __init__(self, config: ConfigTable, verdicts: Verdicts, roster: Roster) -> None:
        self._config, self._verdicts, self._roster = config, verdicts, roster
        self._spared: frozenset[tuple[Place, int]] = frozenset()
        self.changed = False

    def write(self, target: Target, proto: int) -> None:
        """What is found of a target, for all of its places."""
        for place in target.places:
            found = target.probed[proto].found((place, proto) in self._spared)
            self._verdicts.write(place.service, place.slot, place.identity, proto, found)

    def write_all(self) -> None:
        """The same of every target."""
        for target in self._roster.targets.values():
            for proto in range(len(PROTOCOLS)):
                self.write(target, proto)

    def settle(self) -> None:
        """Decide who is spared, and let the workers know all of it."""
        self.changed = False
        before, self._spared = self._spared, self._choose()
        for place, proto in self._spared ^ before:
            target = self._roster.placed.get(place[:2])
            if target is not None:
                self.write(target, proto)
        self._verdicts.publish()

    def _choose(self) -> frozenset[tuple[Place, int]]:
        kept: set[tuple[Place, int]] = set()
        for number in self._config.services:
            inside = [(entry.ordered == "up", place, target) for entry in self._config.servers(number)
                      if entry.takes_queries and (target := self._roster.placed.get((number, entry.slot)))
                      for place in target.places if place[:3] == (number, entry.slot, entry.identity)]
            for proto in range(len(PROTOCOLS)):
                chosen = spared({place.slot: Standing(UP) if ordered else target.standings[proto]
                                 for ordered, place, target in inside}, self._config.min_alive(number))
                kept |= {(place, proto) for _, place, _ in inside if place.slot in chosen}
        return frozenset(kept)
