"""The last hour of every service, and how fast everything goes just now. Runs in the admin process.

Pure: what the table says comes as views (`TableView.services`), times are arguments: `now` is CLOCK_MONOTONIC, `time`
is in seconds since 1970. Counters are kept every `STEP` seconds for a minute, which gives the rates; between two of
them lies one point of the hour. So memory is bounded: `MOST_POINTS` points per service, `LOOKS` looks per server.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from balancer.table.table import LATENCY_BOUNDS, RCODE_NAMES

STEP = 5.0                  # seconds between two points
MOST_POINTS = 720           # an hour
LOOKS = 13                  # a minute of them, ends included
FORMAT = 1                  # of what is exported
EARLY = 0.1                 # of a step: a timer that comes a little early has come in time

# Dropped because nobody should answer it, or nobody waits for an answer: no fault of ours, and no reason to worry.
TURNED_AWAY = frozenset({"short", "response", "source", "truncated", "not_admitted", "client_gone"})
COUNTED = ("queries", "resends", "timeouts", "refusals", *RCODE_NAMES)
Key = tuple[str, str, str]  # service, name and address of the server
Counts = Mapping[str, float]


class Point(NamedTuple):
    """What a service did between the point before and `time`.

    queries and unanswered (timed out or dropped, but for those turned away) are per second. p50 and p99 are seconds
    from sending a query to a server until its answer; None when nothing was answered.
    """

    time: float
    queries: float
    unanswered: float
    p50: float | None
    p99: float | None


class Rates(NamedTuple):
    """Of a server: queries per second just now, the rest over the last minute. counts: each of `COUNTED`, a second."""

    queries: float
    counts: Counts
    p50: float | None
    p99: float | None


class Look(NamedTuple):
    """The counters at one time: of services by name, of servers in the order of `COUNTED`, then the latency buckets."""

    now: float
    services: dict[str, dict[str, int]]
    servers: dict[Key, array[int]]


def quantile(buckets: Sequence[float], part: float) -> float | None:
    """Seconds under which `part` of the answers came; buckets are counts by `LATENCY_BOUNDS`, then of what is beyond.

    Linear within a bucket, like Prometheus's histogram_quantile; beyond the last bound it is that bound.
    """
    rank, lower = part * sum(buckets), 0.0
    if rank <= 0:
        return None
    for bound, count in zip(LATENCY_BOUNDS, buckets, strict=False):
        if count and rank <= count:
            return lower + (bound - lower) * rank / count
        rank, lower = rank - count, bound
    return lower


def _of_server(view: Mapping[str, Any]) -> array[int]:
    tcp = view["tcp"]
    plain = [view["queries"] + tcp["queries"], view["resends"] + tcp["resends"], view["timeouts"] + tcp["timeouts"],
             view["refusals"] + tcp["failures"]]
    rcodes = [view["answers"][name] + tcp["answers"][name] for name in RCODE_NAMES]
    both = [udp + over for udp, over in zip(view["latency"]["buckets"].values(), tcp["latency"]["buckets"].values(),
                                            strict=True)]
    return array("Q", [*plain, *rcodes, *(after - before for before, after in pairwise([0, *both]))])


def _of_service(view: Mapping[str, Any]) -> dict[str, int]:
    dropped: Counter[str] = Counter(view["dropped"])
    dropped.update(view["tcp"]["dropped"])
    return {**{name: view[name] + view["tcp"][name] for name in ("queries", "answers", "timeouts")}, **dropped}


def _since(after: Sequence[int], before: Sequence[int]) -> list[int]:
    """A counter that is smaller than before has begun anew."""
    return [new - old if new >= old else new for new, old in zip(after, before, strict=True)]


class History:
    """Feed it with `look`; one service or server that was not there before has no past."""

    def __init__(self) -> None:
        self._looks: deque[Look] = deque(maxlen=LOOKS)
        self._newest = Look(0.0, {}, {})
        self._points: dict[str, deque[Point]] = {}
        self._states: dict[Key, tuple[str, float]] = {}
        self._looked = 0.0

    def look(self, services: Sequence[Mapping[str, Any]], live: Sequence[Mapping[str, Any]], now: float,
             time: float) -> None:
        """Take the table as it is, at least every `STEP` seconds. live: the operators' changes, as in the status."""
        self._newest = Look(
            now, {view["name"]: _of_service(view) for view in services},
            {(view["name"], server["name"], server["address"]): _of_server(server)
             for view in services for server in view["servers"]})
        self._note_states(services, live, time)
        if self._looks and now - self._looks[-1].now < STEP * (1 - EARLY):
            return
        self._points = {name: self._points.get(name) or deque(maxlen=MOST_POINTS) for name in self._newest.services}
        if self._looks:
            for name, points in self._points.items():
                if name in self._looks[-1].services:
                    points.append(self._point(name, self._looks[-1], round(time, 1)))
        self._looks.append(self._newest)

    def _note_states(self, services: Sequence[Mapping[str, Any]], live: Sequence[Mapping[str, Any]],
                     time: float) -> None:
        known, self._states = self._states, {}
        for view in services:
            for server in view["servers"]:
                key = view["name"], server["name"], server["address"]
                state, since = known.get(key, ("", 0.0))
                if state != server["state"]:
                    # Not before the last look, which saw another state; the first look knows only what it is told.
                    state, since = server["state"], max(_told_since(view["name"], server, live) or time,
                                                        self._looked if key in known else 0.0)
                self._states[key] = state, since
        self._looked = time

    def _point(self, service: str, before: Look, time: float) -> Point:
        took = self._newest.now - before.now
        new, old = self._newest.services[service], before.services[service]
        counts = {name: max(0, count - old.get(name, 0)) for name, count in new.items()}
        lost = sum(count for name, count in counts.items() if name not in ("queries", "answers", *TURNED_AWAY))
        buckets = [0] * (len(LATENCY_BOUNDS) + 1)
        for key, counted in self._newest.servers.items():
            if key[0] == service and key in before.servers:
                change = _since(counted, before.servers[key])[len(COUNTED):]
                buckets = [one + other for one, other in zip(buckets, change, strict=True)]
        return Point(time, counts["queries"] / took, lost / took, quantile(buckets, 0.5), quantile(buckets, 0.99))

    def _past(self, steps: int, what: Key | str) -> Look | None:
        """The look so many steps ago, or the oldest after it that knows this server or service; None: there is none."""
        older = [look for look in list(self._looks)[-steps:] if look.now < self._newest.now
                 and what in (look.services if isinstance(what, str) else look.servers)]
        return older[0] if older else None

    def since(self, service: str, name: str, address: str) -> float:
        """Since when (seconds since 1970) the server has the state that it was seen in last."""
        return self._states[service, name, address][1]

    def server(self, service: str, name: str, address: str) -> Rates:
        """How fast it goes. Zero for one that has only just come."""
        key = service, name, address
        lately, minute = self._past(2, key), self._past(LOOKS, key)
        if lately is None or minute is None:
            return Rates(0.0, dict.fromkeys(COUNTED, 0.0), None, None)
        new = self._newest.servers[key]
        queries = _since(new, lately.servers[key])[0] / (self._newest.now - lately.now)
        took = self._newest.now - minute.now
        change = _since(new, minute.servers[key])
        buckets = change[len(COUNTED):]
        return Rates(queries, {name: count / took for name, count in zip(COUNTED, change, strict=False)},
                     quantile(buckets, 0.5), quantile(buckets, 0.99))

    def service(self, name: str) -> tuple[Point, Counts]:
        """The service just now, and what it counted per second over the last minute, by `queries`, `answers`,
        `timeouts` and the reasons of drops."""
        lately, minute = self._past(2, name), self._past(LOOKS, name)
        if lately is None or minute is None:
            return Point(self._looked, 0.0, 0.0, None, None), {}
        took, old = self._newest.now - minute.now, minute.services[name]
        return self._point(name, lately, self._looked), {
            what: max(0, count - old.get(what, 0)) / took for what, count in self._newest.services[name].items()}

    def last(self, service: str) -> Point | None:
        """The newest point of the hour."""
        points = self._points.get(service)
        return points[-1] if points else None

    def hour(self) -> list[dict[str, Any]]:
        """By service its points, oldest first, column by column."""
        return [{"name": name, **{column: [_short(point[place]) for point in points]
                                  for place, column in enumerate(Point._fields)}}
                for name, points in self._points.items()]

    def export(self) -> dict[str, Any]:
        """The hour and the states as plain data, for `restore` in a successor."""
        return {"format": FORMAT, "hour": self.hour(), "states": [[*key, *known] for key, known in
                                                                  self._states.items()], "looked": self._looked}

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on where another one was; from the beginning when it is of another format."""
        if kept.get("format") != FORMAT:
            return
        self._points = {one["name"]: deque(map(Point, *(one[column] for column in Point._fields)), maxlen=MOST_POINTS)
                        for one in kept["hour"]}
        self._states = {(service, name, address): (state, since)
                        for service, name, address, state, since in kept["states"]}
        self._looked = kept["looked"]


def _short(number: float | None) -> float | None:
    """Six digits are enough for a graph."""
    return number if number is None or number > 1e6 else float(f"{number:.6g}")


def _told_since(service: str, server: Mapping[str, Any], live: Sequence[Mapping[str, Any]]) -> float | None:
    """What the probes, or the operators' changes, say of the time of the present state; None: nothing."""
    changed = [one["time"] for one in live if (one["service"], one["server"]) == (service, server["name"])]
    found = [found["since"] for found in server["health"].values() if found["since"]]
    ordered = server["ordered"] != "auto" or server["state"] in ("drained", "removed")
    return max(changed, default=None) if ordered else max(found, default=None)
