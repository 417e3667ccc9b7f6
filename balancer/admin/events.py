"""The newest events, and streams of them to browsers (server-sent events, WHATWG HTML §9.2). Runs in the admin process.

A client has no queue of its own: it has a place in the ring, and is cut off when it reads so slowly that its place is
no longer there. The supervisor keeps as many events, so a successor of this process is told them again. Who follows the
overview as well gets the newest there is whenever it has taken what was sent before, and never an older one.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from itertools import islice

from aiohttp import web

from balancer.admin.replies import cut
from balancer.component import Event, tone

MOST_EVENTS = 1000
BATCH = 64                  # events per write
HEARTBEAT = 15.0            # seconds of silence after which a comment is sent, so that dead clients are noticed
PATIENCE = 20.0             # seconds that one write may take


def told(event: Event) -> str:
    """The event as one line of JSON, with what its new state says of its subject."""
    return json.dumps({**event._asdict(), "tone": tone(event.after)})


class Events:
    """The ring, and those who follow it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ring: deque[tuple[str, str]] = deque(maxlen=MOST_EVENTS)      # id, JSON
        self._total = 0                         # events ever: the place behind the newest
        self._overview, self._overviews = "", 0
        self._news: asyncio.Future[None] = self._loop.create_future()
        self._closed = False
        self.shown_to = 0                       # how many follow the overview

    def add(self, event: Event) -> None:
        """Take a new event and wake the streams."""
        self._ring.append((event.id, told(event)))
        self._total += 1
        self._wake()

    def show(self, overview: bytes) -> None:
        """The newest overview, one line of JSON with its end."""
        self._overview, self._overviews = f"event: overview\ndata: {overview.decode()}\n", self._overviews + 1
        if self.shown_to:
            self._wake()

    def close(self) -> None:
        """End all streams, for good."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._news.set_result(None)
        self._news = self._loop.create_future()

    def _place(self, after: str | None, last: int) -> int:
        """The place behind the event with this id; where it is None, unknown or gone, that of the `last` newest."""
        oldest = self._total - len(self._ring)
        return next((oldest + index for index, (known, _) in enumerate(self._ring, 1) if known == after),
                    max(oldest, self._total - last))

    def newest(self, after: str | None, last: int) -> bytes:
        """The events as one JSON array: those after that id, or where it is not known the `last` newest."""
        place = self._place(after, last) - (self._total - len(self._ring))
        return f"[{', '.join(text for _, text in islice(self._ring, place, None))}]\n".encode()

    async def stream(self, request: web.BaseRequest, response: web.StreamResponse, after: str | None, last: int,
                     overview: bool) -> None:
        """Send the events from there on, then each new one, until the client goes or `close`; with `overview` also
        each new overview."""
        place, seen = self._place(after, last), 0
        text = "retry: 2000\n\n"
        self.shown_to += overview
        try:
            while not self._closed:
                if text:
                    await asyncio.wait_for(response.write(text.encode()), PATIENCE)
                text = ""
                if place == self._total and not (overview and seen < self._overviews):
                    woken, _ = await asyncio.wait([self._news], timeout=HEARTBEAT)
                    text = "" if woken else ": nothing new\n\n"
                skip = place - (self._total - len(self._ring))
                if skip < 0:
                    raise TimeoutError      # as slow as one that takes nothing at all
                batch = list(islice(self._ring, skip, skip + BATCH))
                place += len(batch)
                text += "".join(f"id: {ident}\ndata: {event}\n\n" for ident, event in batch)
                if overview and seen < self._overviews:
                    seen, text = self._overviews, text + self._overview
        except TimeoutError:
            cut(request)
        finally:
            self.shown_to -= overview
