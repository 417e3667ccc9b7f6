"""The events of this host: numbered, logged, kept for a while, told to whoever listens. Runs in the supervisor."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from balancer.component import AUDIT, Event

KEPT = 1000


class Events:
    """Gives each event its id and keeps the newest, so that a process that starts late can catch up.

    Ids are microseconds since 1970 as text of equal length, made to grow: they sort as they happened, also over a
    restart of ns7.
    """

    def __init__(self, listen: Callable[[Event], None], log: Callable[[Event], None]) -> None:
        self._listen, self._log = listen, log
        self._ring: deque[Event] = deque(maxlen=KEPT)
        self._last = 0

    def audit(self, what: str, before: str, after: str, user: str) -> None:
        """A user has asked for something; told when it has changed anything."""
        if before != after:
            self.tell(AUDIT, what, before, after, f"by {user}")

    def tell(self, kind: str, subject: str, before: str, after: str, reason: str) -> None:
        """Something happened now."""
        self.take(Event(time.time(), kind, subject, before, after, reason))

    def take(self, event: Event) -> None:
        """An event that somebody else noticed."""
        self._last = max(self._last + 1, int(time.time() * 1e6))
        event = event._replace(id=f"{self._last:020d}")
        self._log(event)
        self._ring.append(event)
        self._listen(event)

    def adopt(self, event: Event) -> None:
        """An event that a supervisor before this one has numbered."""
        if event.id.isdecimal():
            self._last = max(self._last, int(event.id))
        self._ring.append(event)
        self._listen(event)

    def since(self, last: str) -> list[Event]:
        """What is kept of the events after the one with this id ("": all)."""
        return [event for event in self._ring if event.id > last]
