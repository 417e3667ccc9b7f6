"""The newest events, and streams of them to browsers (server-sent events, WHATWG HTML §9.2). Runs in the admin process.

A client has no queue of its own: it has a place in the ring, and is cut off when it reads so slowly that its place is
no longer there. The supervisor keeps as many events, so a successor of this process is told them again.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from itertools import islice

from aiohttp import web

from balancer.admin.replies import cut
from balancer.component import Event

MOST_EVENTS = 1000
BATCH = 64                  # events per write
HEARTBEAT = 15.0            # seconds of silence after which a comment is sent, so that dead clients are noticed
PATIENCE = 20.0             # seconds that one write may take


class Events:
    """The ring, and those who follow it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ring: deque[tuple[str, str]] = deque(maxlen=MOST_EVENTS)      # id, how it is sent
        self._total = 0                         # events ever: the place behind the newest
        self._news: asyncio.Future[None] = self._loop.create_future()
        self._closed = False

    def add(self, event: Event) -> None:
        """Take a new event and wake the streams."""
        self._ring.append((event.id, f"id: {event.id}\ndata: {json.dumps(event._asdict())}\n\n"))
        self._total += 1
        self._wake()

    def close(self) -> None:
        """End all streams, for good."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._news.set_result(None)
        self._news = self._loop.create_future()

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
                text = "".join(event for _, event in batch) or ": nothing new\n\n"
        except TimeoutError:
            cut(request)
