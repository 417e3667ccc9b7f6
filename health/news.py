"""What is told of whom: events on change only, paced, and remembered for a successor. Runs in the health process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

from balancer.component import Event

BURST, RATE = 100.0, 10.0           # events at once, then per second: half of what the supervisor takes
MOST_WAITING = 10_000


class News:
    """`told` maps "kind subject" to the state that was told, without the good ones, which nobody needs to be told."""

    def __init__(self, emit: Callable[[Event], None], clock: Callable[[], float], told: Mapping[str, str]) -> None:
        self._emit, self._clock = emit, clock
        self.told = dict(told)
        self.changed = False            # a successor must hear of it
        self._waiting: deque[Event] = deque(maxlen=MOST_WAITING)
        self._tokens, self._filled = BURST, clock()

    def tell(self, kind: str, subject: str, good: str, state: str, reason: str) -> None:
        """An event, when this is another state than the one told before; `good` is what nobody was told of."""
        key = f"{kind} {subject}"
        before = self.told.get(key, good)
        if state == before:
            return
        if state == good:
            del self.told[key]
        else:
            self.told[key] = state
        self._say(kind, subject, before, state, reason)

    def forget(self, gone: Callable[[str, str], bool]) -> None:
        """What was told of (kind, subject) ends, for it is not looked at any more."""
        for key in list(self.told):
            kind, _, subject = key.partition(" ")
            if gone(kind, subject):
                self._say(kind, subject, self.told.pop(key), "gone", "not looked at any more")

    def flush(self) -> None:
        """Tell what waits, as fast as it is taken: of many at once none shall be lost."""
        now = self._clock()
        self._tokens = min(BURST, self._tokens + (now - self._filled) * RATE)
        self._filled = now
        while self._waiting and self._tokens >= 1:
            self._tokens -= 1
            self._emit(self._waiting.popleft())

    def _say(self, kind: str, subject: str, before: str, after: str, reason: str) -> None:
        self.changed = True
        self._waiting.append(Event(time.time(), kind, subject, before, after, reason))
        self.flush()
