"""Read-only views of the table for people and programs: the rows of all workers summed up, as plain dicts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from balancer.table.table import LATENCY_BOUNDS, ConfigTable, Row, ServerEntry
from balancer.table.verdicts import DOWN, PROTOCOLS, SPARED, Found, Verdicts

REFUSED_LATELY_NS = 1_000_000_000        # before a suspicion began: it is why
NOTHING_KNOWN = (Found(), Found())

Told = TypeVar("Told")


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


def suspects(config: ConfigTable, rows: Sequence[Row], service: int, now_ns: int) -> dict[int, int]:
    """Whom a worker suspects that nobody has heard since: slot → the newest refusal, 0 when it was silent."""
    used = max((entry.slot + 1 for entry in config.servers(service)), default=0)
    found: dict[int, int] = {}
    for row in rows:
        for slot, since_ns, refused_ns in row.suspects(service, used, now_ns):
            if since_ns > max(other.seen_well_ns(service, slot) for other in rows):
                found[slot] = max(found.get(slot, 0), refused_ns if since_ns - refused_ns < REFUSED_LATELY_NS else 0)
    return found


class Owed(NamedTuple):
    """A server that owes clients an answer over UDP. Times are CLOCK_MONOTONIC ns, 0: never.

    waits: a query is in flight; seen_ns: its newest answer to any worker; refused_ns: its newest refusal, if no answer
    followed.
    """

    waits: bool
    seen_ns: int
    refused_ns: int


def owed(config: ConfigTable, rows: Sequence[Row], service: int) -> dict[int, Owed]:
    """Those servers of a service, by slot."""
    used = max((entry.slot + 1 for entry in config.servers(service)), default=0)
    found: dict[int, tuple[bool, int]] = {}
    for row in rows:
        for slot, waits, refused_ns in row.owed(service, used):
            before = found.get(slot, (False, 0))
            found[slot] = waits or before[0], max(refused_ns, before[1])
    owing = {}
    for slot, (waits, refused_ns) in found.items():
        seen_ns = max(row.seen_well_ns(service, slot) for row in rows)
        if waits or refused_ns > seen_ns:
            owing[slot] = Owed(waits, seen_ns, refused_ns if refused_ns > seen_ns else 0)
    return owing


def state_of(entry: ServerEntry, verdicts: Sequence[Found], suspected: bool = False) -> str:
    """One word for a server: "removed" while what it has in flight goes on, "drained", "up" or "down" by order, else
    its `serving_state`."""
    if entry.state == "removed" or entry.ordered == "down":
        return "removed" if entry.state == "removed" else "down"
    if not entry.takes_queries:
        return "drained"
    return "up" if entry.ordered == "up" else serving_state(verdicts, suspected)


def serving_state(verdicts: Sequence[Found], suspected: bool) -> str:
    """Whether a server serves: "up", "suspected" (by its clients' queries), "degraded" (down over one of the
    protocols), "down" (over all)."""
    down = [found.verdict in (DOWN, SPARED) for found in verdicts]
    return "down" if all(down) else "degraded" if any(down) else "suspected" if suspected else "up"


def _health(found: Found, now_ns: int) -> dict[str, Any]:
    """A verdict for people: times in seconds since 1970, None for never; latency in seconds."""
    def moment(at_ns: int) -> float | None:
        return time.time() - (now_ns - at_ns) / 1e9 if at_ns else None

    return {"verdict": found.verdict, "since": moment(found.since_ns), "reason": found.reason,
            "probed": moment(found.probed_ns), "latency": found.latency_ns / 1e9 if found.latency_ns else None}


def services(config: ConfigTable, rows: Sequence[Row], verdicts: Verdicts | None = None) -> list[dict[str, Any]]:
    """Every service with its servers: counters summed over workers; latency in seconds, buckets cumulated."""
    views = []
    now_ns = time.monotonic_ns()
    for service in config.services:
        servers = []
        suspected = suspects(config, rows, service, now_ns)
        for entry in config.servers(service):
            counters = _sum([row.server(service, entry.slot) for row in rows])
            counters["tcp"]["latency"] = _latency(counters["tcp"])
            known = verdicts.read(service, entry.slot, entry.identity, now_ns) if verdicts else NOTHING_KNOWN
            servers.append({"name": entry.name, "address": entry.address, "weight": entry.weight,
                            "state": state_of(entry, known, entry.slot in suspected), "ordered": entry.ordered,
                            "health": {proto: _health(found, now_ns)
                                       for proto, found in zip(PROTOCOLS, known, strict=True)},
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
    """The whole table, read-only: configuration, verdicts, the rows of past workers, the rows of all workers."""

    def __init__(self, config: ConfigTable, rows: Sequence[Row], verdicts: Verdicts | None = None) -> None:
        self.config = config
        self.verdicts = verdicts
        self.rows = list(rows)

    def verdicts_on(self, service: int, entry: ServerEntry) -> Sequence[Found]:
        """What is found of a server, by protocol."""
        if self.verdicts is None:
            return NOTHING_KNOWN
        return self.verdicts.read(service, entry.slot, entry.identity, time.monotonic_ns())

    def services(self) -> list[dict[str, Any]]:
        """`services` of the table as it is now; never while counters move from one row to another."""
        return self._still(lambda: services(self.config, self.rows, self.verdicts))

    def counters(self) -> list[dict[str, Any]]:
        """Each service's name, counters, and its servers' as [name, address, counters]: what `Row.add_…` takes."""
        return self._still(lambda: [_plain(self.config, self.rows, number) for number in self.config.services])

    def _still(self, read: Callable[[], Told]) -> Told:
        while True:
            moves = [row.moves for row in self.rows]
            found = read()
            if not any(move % 2 for move in moves) and moves == [row.moves for row in self.rows]:
                return found
