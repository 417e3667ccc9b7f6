"""Who is probed: what the server table lists, one target per address, and the master. Runs in the health process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from balancer.component import WARNING, Service
from balancer.config import Endpoint
from balancer.table.table import ConfigTable
from health.target import Place, Target, Where, listed


class Roster:
    """targets: by address; placed: the same by (service, slot); master: whose serials count, None without one."""

    def __init__(self, table: ConfigTable, log: Callable[[str], None]) -> None:
        self._table, self._log = table, log
        self._sources: Mapping[tuple[str, str], str] = {}
        self._master: str | Endpoint | None = None
        self._generation = -1               # of the table that was read
        self.targets: dict[Where, Target] = {}
        self.placed: dict[tuple[int, int], Target] = {}
        self.master: Where | None = None

    def configure(self, services: Iterable[Service], master: str | Endpoint | None) -> None:
        """From which addresses to ask, and who the master is."""
        self._sources = {(service.name, server.name): server.source for service in services
                         for server in service.servers}
        self._master = master
        self._generation = -1

    def survey(self) -> tuple[list[Target], list[Target]] | None:
        """Who has come and who has gone; None while the table is the one that was read last."""
        if self._table.generation == self._generation:
            return None
        self._generation = self._table.generation
        before, self.targets = self.targets, {}
        named: dict[str, Where] = {}
        for where, place in listed(self._table, self._sources):
            self._add(where, before).places.append(place)
            named.setdefault(place.name, where)
        self.master = self._find_master(named, before)
        self.placed = {place[:2]: target for target in self.targets.values() for place in target.places}
        return ([target for where, target in self.targets.items() if where not in before],
                [target for where, target in before.items() if where not in self.targets])

    def places(self) -> Iterable[Place]:
        """Every server of every service."""
        return (place for target in self.targets.values() for place in target.places)

    def _add(self, where: Where, before: Mapping[Where, Target]) -> Target:
        if where not in self.targets:
            target = self.targets[where] = before.get(where) or Target(where)
            target.places = []
        return self.targets[where]

    def _find_master(self, named: Mapping[str, Where], before: Mapping[Where, Target]) -> Where | None:
        if isinstance(self._master, Endpoint):
            host, port = self._master.host, self._master.port
            where = next((one for one in self.targets if one[:2] == (host, port)), Where(host, port, ""))
            if where not in self.targets:
                self._add(where, before)
            return where
        if self._master is not None and self._master not in named:
            self._log(f"{WARNING}no server is named {self._master}: serials are not compared")
        return named.get(self._master) if self._master is not None else None
