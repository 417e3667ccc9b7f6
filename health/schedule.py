"""When a server is probed next. Pure: `now` in seconds and chance (0 to 1) are arguments."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

JITTER = 0.1            # of the interval, only ever earlier: what is promised about the worst case holds

Key = TypeVar("Key", bound=Hashable)


class Pace(NamedTuple):
    """Seconds: from the begin of a probe to the next, and from the end of a failed one while a server falls."""

    interval: float
    fast_interval: float


def next_probe(pace: Pace, began: float, ended: float, troubled: bool, chance: float) -> float:
    """When the probe after this one begins, never before this one ended."""
    if troubled:
        return ended + pace.fast_interval
    return max(ended, began + pace.interval * (1 - JITTER * chance))


def first_probe(pace: Pace, now: float, chance: float) -> float:
    """The first probes are spread, so that hundreds of servers are not asked in the same instant."""
    return now + min(pace.interval, 1.0) * chance / 2


class Due(Generic[Key]):
    """Keys with the time at which each is due; a key set anew forgets its old time."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Key]] = []
        self._times: dict[Key, float] = {}
        self._count = 0

    def set(self, key: Key, time: float) -> None:
        self._times[key] = time
        self._count += 1
        heapq.heappush(self._heap, (time, self._count, key))

    def drop(self, key: Key) -> None:
        self._times.pop(key, None)

    def take(self, now: float) -> list[Key]:
        """Everybody who is due, in order; they are due no more."""
        found = []
        while (time := self.next()) is not None and time <= now:
            found.append(heapq.heappop(self._heap)[2])
            del self._times[found[-1]]
        return found

    def next(self) -> float | None:
        """When somebody is due; None: never."""
        while self._heap and self._times.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None
