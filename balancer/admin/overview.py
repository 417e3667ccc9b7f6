"""The overview: what the status page draws, made from the table again and again. Runs in the admin process.

The table is read in a thread: each second while somebody looks at the page, else every `STEP` seconds for the sake of
the hour's graphs; but so seldom that it takes no more than `SHARE` of the time, however many servers there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from balancer.admin.events import Events
from balancer.admin.history import COUNTED, STEP, History, Rates
from balancer.admin.replies import json_bytes
from balancer.admin.snapshots import Snapshots
from balancer.table.table import RCODE_NAMES
from balancer.table.view import TableView

INTERVAL = 1.0              # seconds between two overviews that somebody sees
LOOKED_AT = 10.0            # seconds that one who asks, but does not follow, counts as looking
SHARE = 0.05
KEEP = 60.0                 # seconds between two times that the hour is left with the supervisor
LARGEST_KEPT = 900_000      # bytes of it
TAKES_QUERIES = ("up", "suspected", "degraded")


def reason(service: str, server: Mapping[str, Any], live: Sequence[Mapping[str, Any]]) -> str:
    """Why a server is not simply up, for people; "" when it is."""
    by = " and ".join(dict.fromkeys(
        f"by {one['user']} on {one['node']}" for one in live
        if (one["service"], one["server"]) == (service, server["name"]) and not one["idle"]))
    if server["state"] in ("drained", "removed") or server["ordered"] != "auto":
        return by or "by the configuration file"
    if server["state"] == "suspected":
        return "its clients' queries are refused or not answered"
    found = [(proto, one["reason"] or "down") for proto, one in server["health"].items()
             if one["verdict"] in ("down", "spared")]
    words = {text for _, text in found}
    text = words.pop() if len(words) == 1 and len(found) > 1 else "; ".join(
        f"{proto.upper()}: {text}" for proto, text in found)
    spared = any(one["verdict"] == "spared" for one in server["health"].values())
    return f"{text}; still used, for too few are up" if spared else text


def _server(service: str, view: Mapping[str, Any], weights: float, queries: float, rates: Rates, since: float,
            live: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    fair = view["weight"] / weights if weights and view["state"] in TAKES_QUERIES else 0.0
    return {
        **{name: view[name] for name in ("name", "address", "weight", "state", "ordered", "inflight", "health")},
        "since": since, "reason": reason(service, view, live), "queries": rates.queries,
        "share": rates.counts["queries"] / queries if queries else 0.0, "fair": fair,
        "p50": rates.p50, "p99": rates.p99,
        "answers": {name: rates.counts[name] for name in RCODE_NAMES if rates.counts[name]},
        **{name: rates.counts[name] for name in COUNTED if name in ("resends", "timeouts", "refusals")}}


def services(views: Sequence[Mapping[str, Any]], listen: Mapping[str, Any], live: Sequence[Mapping[str, Any]],
             history: History) -> list[dict[str, Any]]:
    """Every service with its servers as the page shows them: per second, in shares and quantiles."""
    found = []
    for view in views:
        name = view["name"]
        now, counts = history.service(name)
        rates = [history.server(name, one["name"], one["address"]) for one in view["servers"]]
        weights = sum(one["weight"] for one in view["servers"] if one["state"] in TAKES_QUERIES)
        queries = sum(one.counts["queries"] for one in rates)
        dropped = {what: count for what, count in counts.items()
                   if what not in ("queries", "answers", "timeouts") and count}
        found.append({
            "name": name, "scheduler": view["scheduler"], "listen": listen.get(name, []),
            "inflight": view["inflight"] + view["tcp"]["inflight"], "tcp_open": view["tcp"]["open"],
            "queries": now.queries, "unanswered": now.unanswered, "p50": now.p50, "p99": now.p99,
            "timeouts": counts.get("timeouts", 0.0), "dropped": dropped, "point": history.last(name),
            "servers": [_server(name, one, weights, queries, rate,
                                history.since(name, one["name"], one["address"]), live)
                        for one, rate in zip(view["servers"], rates, strict=True)]})
    return found


class Overview:
    """Looks, keeps the hour, and tells those who follow. kept: what a predecessor has published."""

    def __init__(
        self, table: TableView, snapshots: Snapshots, events: Events, publish: Callable[[dict[str, Any]], None],
        kept: Mapping[str, Any], log: Callable[[str], None],
    ) -> None:
        self._table, self._snapshots, self._events, self._publish = table, snapshots, events, publish
        self._loop = asyncio.get_running_loop()
        self._history = History()
        self._lock = threading.Lock()           # of the history: it is read in threads
        self._asked = self._looked = self._kept = float("-inf")
        self._wake = asyncio.Event()
        self._news: asyncio.Future[bytes] = self._loop.create_future()
        self._latest = b""
        try:
            self._history.restore(kept)
        except (KeyError, TypeError, ValueError) as error:
            log(f"the last hour is not known: what was kept of it cannot be understood ({error!r})")
            self._history = History()

    async def run(self) -> None:
        """For ever."""
        while True:
            self._wake.clear()
            begun = self._loop.time()
            self._latest = await asyncio.to_thread(self._look)
            self._looked = self._loop.time()
            self._events.show(self._latest)
            self._news.set_result(self._latest)
            self._news = self._loop.create_future()
            if self._looked - self._kept >= KEEP:
                self._kept = self._looked
                self._publish(self.export())
            await self._rest(self._looked - begun)

    async def _rest(self, took: float) -> None:
        """Until the next look is due; sooner when somebody begins to follow."""
        least, end = max(INTERVAL, took / SHARE), self._looked + max(STEP, took / SHARE)
        await asyncio.sleep(least - took)
        while not self._watched() and (left := end - took - self._loop.time()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), left)

    def _watched(self) -> bool:
        return self._events.shown_to > 0 or self._loop.time() - self._asked < LOOKED_AT

    def follow(self) -> None:
        """Somebody begins to follow: they shall not wait for the next look."""
        self._asked = self._loop.time()
        self._wake.set()

    async def get(self) -> bytes:
        """The overview as JSON, hardly older than `INTERVAL`."""
        self._asked = self._loop.time()
        if self._asked - self._looked > INTERVAL:
            self._wake.set()
            return await asyncio.shield(self._news)
        return self._latest

    def _look(self) -> bytes:
        facts, views = self._snapshots.supervisor, self._table.services()
        live = facts.get("live", [])
        now = time.time()
        with self._lock:
            self._history.look(views, live, time.monotonic(), now)
            shown = services(views, facts.get("listen", {}), live, self._history)
        return json_bytes({**facts, "time": now, "alerts": self._snapshots.latest("alert").get("open", []),
                           "components": self._snapshots.status(), "services": shown})

    def hour(self) -> bytes:
        """The hour as JSON. May be called in a thread."""
        with self._lock:
            return json_bytes({"step": STEP, "services": self._history.hour()})

    def export(self) -> dict[str, Any]:
        """For the successor of this process; without the hour where that is too much."""
        with self._lock:
            kept = self._history.export()
        return kept if len(json_bytes(kept)) <= LARGEST_KEPT else {**kept, "hour": []}
