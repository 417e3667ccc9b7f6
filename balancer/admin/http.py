"""The pages: what is answered to which path. Runs in the admin process; docs/http.md is the manual.

What takes long for many servers is built in a thread, so that other pages and the events are not delayed.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from aiohttp import web

from balancer.admin import metrics, page
from balancer.admin.events import MOST_EVENTS, Events
from balancer.admin.overview import Overview
from balancer.admin.replies import HEADERS, accepts_gzip, json_bytes, problem, reply
from balancer.admin.snapshots import Snapshots
from balancer.table.view import TableView

MOST_STREAMS = 200

T = TypeVar("T")
Page = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Shared(Generic[T]):
    """Runs `build` in a thread, one at a time; all who ask before it begins get the same result."""

    def __init__(self, build: Callable[[], T]) -> None:
        self._build = build
        self._one_at_a_time = asyncio.Lock()
        self._next: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """The result of a build that began after this call."""
        if self._next is None:
            self._next = asyncio.create_task(self._run())
        return await asyncio.shield(self._next)

    async def _run(self) -> T:
        async with self._one_at_a_time:
            self._next = None
            return await asyncio.to_thread(self._build)


class Pages:
    """Answers GET and HEAD; anything else, and any path that is not one of these, is a problem told as JSON."""

    def __init__(self, table: TableView, snapshots: Snapshots, events: Events, overview: Overview) -> None:
        self._table, self._snapshots, self._events, self._overview = table, snapshots, events, overview
        self._streams = 0
        self._status = Shared(lambda: json_bytes(self.status()))
        self._obstacles = Shared(self.obstacles)
        self._metrics = Shared(metrics.Exposition(table.services, snapshots).text)
        self._hour = Shared(overview.hour)
        self._files = page.load()
        self._pages: dict[str, Page] = {
            **dict.fromkeys(self._files, self._file_page),
            "/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._metrics_page,
            "/api/v1/status": self._status_page, "/api/v1/events": self._events_page,
            "/api/v1/overview": self._overview_page, "/api/v1/history": self._history_page,
        }

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The response to one request, not yet sent (of the events: all but its end)."""
        page = self._pages.get(request.path)
        if page is None:
            return problem(404, f"there is {', '.join(self._pages)}")
        if request.method not in ("GET", "HEAD"):
            return problem(405, "this interface only tells, it takes no commands", Allow="GET, HEAD")
        return await page(request)

    def status(self) -> dict[str, Any]:
        """The supervisor's facts, what components add, every service and server."""
        facts = self._snapshots.supervisor
        listen = facts.get("listen", {})
        return {**facts, "components": self._snapshots.status(), "services": [
            {**view, "listen": listen.get(view["name"], [])} for view in self._table.services()]}

    def obstacles(self) -> list[str]:
        """Why this host cannot serve; nothing when it can."""
        found = [] if self._snapshots.supervisor.get("ready") else ["not all workers are listening"]
        return found + [f"service {view['name']}: no server is up" for view in self._table.services()
                        if not any(server["state"] in ("up", "degraded", "suspected") for server in view["servers"])]

    async def _healthz(self, request: web.BaseRequest) -> web.StreamResponse:
        return reply(json_bytes({"status": "alive"}), "application/json")

    async def _readyz(self, request: web.BaseRequest) -> web.StreamResponse:
        obstacles = await self._obstacles.get()
        if obstacles:
            return problem(503, "; ".join(obstacles))
        return reply(json_bytes({"status": "ready"}), "application/json")

    async def _status_page(self, request: web.BaseRequest) -> web.StreamResponse:
        return reply(await self._status.get(), "application/json")

    async def _metrics_page(self, request: web.BaseRequest) -> web.StreamResponse:
        return reply(await self._metrics.get(), metrics.CONTENT_TYPE)

    async def _overview_page(self, request: web.BaseRequest) -> web.StreamResponse:
        return reply(await self._overview.get(), "application/json")

    async def _history_page(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await self._hour.get()
        headers = {"Vary": "Accept-Encoding"}
        if accepts_gzip(request):
            body = await asyncio.to_thread(gzip.compress, body, 6)
            headers["Content-Encoding"] = "gzip"
        return reply(body, "application/json", headers=headers)

    async def _file_page(self, request: web.BaseRequest) -> web.StreamResponse:
        return self._files[request.path].reply(request)

    async def _events_page(self, request: web.BaseRequest) -> web.StreamResponse:
        after, last = request.headers.get("Last-Event-ID"), request.query.get("last", str(MOST_EVENTS))
        if not (last.isascii() and last.isdecimal() and int(last[:9]) <= MOST_EVENTS):
            return problem(400, f"last must be 0 to {MOST_EVENTS}")
        if request.headers.get("Accept", "") == "application/json":
            return reply(self._events.newest(after, int(last)), "application/json", headers={"Vary": "Accept"})
        if self._streams >= MOST_STREAMS:
            return problem(503, f"{MOST_STREAMS} clients follow the events already", **{"Retry-After": "10"})
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream", "Vary": "Accept"})
        if request.method == "HEAD":
            return response
        overview = "overview" in request.query
        if overview:
            self._overview.follow()
        self._streams += 1
        try:
            await response.prepare(request)
            await self._events.stream(request, response, after, int(last), overview)
        finally:
            self._streams -= 1
        return response
