"""The newest events, and streams of them to browsers (server-sent events, WHATWG HTML §9.2). Runs in the admin process.

A client has no queue of its own: it has a place in the ring, and is cut off when it reads so slowly that its place is
no longer there.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice

from aiohttp import web

from balancer.admin.replies import cut
from balancer.component import Event

MOST_EVENTS = 1000
MOST_KEPT = 512 << 10       # bytes of events that a successor of this process is left
KEEP_EVERY = 5.0            # seconds between two savings for the successor, at least
BATCH = 64                  # events per write
HEARTBEAT = 15.0            # seconds of silence after which a comment is sent, so that dead clients are noticed
PATIENCE = 20.0             # seconds that one write may take


class Events:
    """The ring. `keep` leaves a snapshot for the successor, whose `earlier` it will be."""

    def __init__(self, earlier: Iterable[tuple[str, str]], keep: Callable[[list[tuple[str, str]]], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ring = deque(((ident, data) for ident, data in earlier), MOST_EVENTS)      # id, JSON
        self._total = len(self._ring)           # events ever; the newest one's place
        self._news: asyncio.Future[None] = self._loop.create_future()
        self._keep = keep
        self._keeping: asyncio.TimerHandle | None = None
        self._closed = False

    def add(self, event: Event) -> None:
        """Take a new event and wake the streams."""
        self._ring.append((event.id, json.dumps(event._asdict())))
        self._total += 1
        self._wake()
        if self._keeping is None:
            self._keeping = self._loop.call_later(KEEP_EVERY, self._save)

    def close(self) -> None:
        """End all streams, for good."""
        self._closed = True
        self._wake()
        if self._keeping is not None:
            self._keeping.cancel()
            self._save()

    def _wake(self) -> None:
        self._news.set_result(None)
        self._news = self._loop.create_future()

    def _save(self) -> None:
        self._keeping = None
        kept: deque[tuple[str, str]] = deque()
        room = MOST_KEPT
        for ident, data in reversed(self._ring):
            room -= len(ident) + len(data)
            if room < 0:
                break
            kept.appendleft((ident, data))
        self._keep(list(kept))

    def _place_after(self, ident: str | None) -> int:
        """The place behind the event with this id; the oldest there is when it is unknown or gone."""
        oldest = self._total - len(self._ring)
        return next((oldest + index for index, (known, _) in enumerate(self._ring, 1) if known == ident), oldest)

    async def stream(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Send the events after Last-Event-ID, then each new one, until the client goes or `close`."""
        place = self._place_after(request.headers.get("Last-Event-ID"))
        text = "retry: 2000\n\n"
        try:
            while not self._closed:
                await asyncio.wait_for(response.write(text.encode()), PATIENCE)
                if place == self._total:
                    await asyncio.wait([self._news], timeout=HEARTBEAT)
                skip = place - (self._total - len(self._ring))
                if skip < 0:
                    raise TimeoutError      # as slow as one that takes nothing at all
                batch = list(islice(self._ring, skip, skip + BATCH))
                place += len(batch)
                text = "".join(map(_framed, batch)) or ": nothing new\n\n"
        except TimeoutError:
            cut(request)


def _framed(event: tuple[str, str]) -> str:
    ident, data = event
    return f"id: {ident}\ndata: {data}\n\n" if ident else f"data: {data}\n\n"
