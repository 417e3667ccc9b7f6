"""Read-only views of the table for people and programs: the rows of all workers summed up, as plain dicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from balancer.table.table import LATENCY_BOUNDS, ConfigTable, Row, ServerEntry

Found = TypeVar("Found")


def _sum(parts: Sequence[Any]) -> Any:
    first = parts[0]
    if isinstance(first, dict):
        return {key: _sum([part[key] for part in parts]) for key in first}
    if isinstance(first, list):
        return [sum(column) for column in zip(*parts, strict=True)]
    return sum(parts)


def _latency(server: dict[str, Any]) -> dict[str, Any]:
    buckets = server.pop("latency")
    names = [*(str(bound) for bound in LATENCY_BOUNDS), "+Inf"]
    total, cumulated = 0, {}
    for name, count in zip(names, buckets, strict=True):
        total += count
        cumulated[name] = total
    return {"count": total, "sum": server.pop("latency_sum_ns") / 1e9, "buckets": cumulated}


def state_of(entry: ServerEntry) -> str:
    """A server's state in one word: "up", "drained", "down", or "removed" while what it has in flight goes on."""
    if entry.state == "removed":
        return "removed"
    return "down" if entry.ordered == "down" else "up" if entry.takes_queries else "drained"


def services(config: ConfigTable, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every service with its servers: counters summed over workers; latency in seconds, buckets cumulated."""
    views = []
    for service in config.services:
        servers = []
        for entry in config.servers(service):
            counters = _sum([row.server(service, entry.slot) for row in rows])
            counters["tcp"]["latency"] = _latency(counters["tcp"])
            servers.append({"name": entry.name, "address": entry.address, "weight": entry.weight,
                            "state": state_of(entry), "ordered": entry.ordered,
                            "latency": _latency(counters), **counters})
        views.append({"name": config.service_name(service), "scheduler": config.scheduler(service),
                      **_sum([row.service(service) for row in rows]), "servers": servers})
    return views


def _plain(config: ConfigTable, rows: Sequence[Row], service: int) -> dict[str, Any]:
    return {"name": config.service_name(service), "counters": _sum([row.service(service) for row in rows]),
            "servers": [[entry.name, entry.address, _sum([row.server(service, entry.slot) for row in rows])]
                        for entry in config.servers(service) if entry.state == "present"]}


def difference(after: Any, before: Any) -> Any:
    """What has been counted between two tellings of the same counters; where there was none before, all of it."""
    if isinstance(after, dict):
        return {key: difference(value, before.get(key) if isinstance(before, dict) else None)
                for key, value in after.items()}
    if isinstance(after, list):
        same = isinstance(before, list) and len(before) == len(after)
        return [difference(value, before[place] if same else None) for place, value in enumerate(after)]
    return after - before if isinstance(before, int) else after


class TableView:
    """The whole table, read-only: the configuration, the rows of past workers, and the rows of all workers."""

    def __init__(self, config: ConfigTable, rows: Sequence[Row]) -> None:
        self.config = config
        self.rows = list(rows)

    def services(self) -> list[dict[str, Any]]:
        """`services` of the table as it is now; never while counters move from one row to another."""
        return self._still(lambda: services(self.config, self.rows))

    def counters(self) -> list[dict[str, Any]]:
        """Each service's name, counters, and its servers' as [name, address, counters]: what `Row.add_…` takes."""
        return self._still(lambda: [_plain(self.config, self.rows, number) for number in self.config.services])

    def _still(self, read: Callable[[], Found]) -> Found:
        while True:
            moves = [row.moves for row in self.rows]
            found = read()
            if not any(move % 2 for move in moves) and moves == [row.moves for row in self.rows]:
                return found
