"""What is asked, and when the next query is due. Pure: `now` is an argument (CLOCK_MONOTONIC, ns)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# After a stall the missed queries are sent at double rate, not in one burst that no steady load would bring.
CATCH_UP = 2
LONGEST_BURST = 0.02  # seconds' worth of queries at most per wake
# Beyond this many times its length a run ends, whatever is still to be sent.
PATIENCE_WITH_ITSELF = 2


@dataclass(frozen=True)
class Plan:
    """One load. `queries` are whole messages, used in turn; their ids are set when they are sent."""

    address: tuple[str, int]
    rate: float
    seconds: float
    queries: Sequence[bytes]
    sockets: int = 64
    patience: float = 2.0  # seconds after which an unanswered query is lost
    start: float | None = None  # CLOCK_MONOTONIC seconds, None: at once
    tcp: bool = False
    connections: int = 0  # TCP: persistent pipelined connections; 0: one query per connection
    each: bool = False  # the result lists every query

    @property
    def total(self) -> int:
        return int(self.rate * self.seconds)


class Pace:
    """How many queries are due at each wake."""

    def __init__(self, plan: Plan, start: int) -> None:
        self.total, self.start, self.sent = plan.total, start, 0
        self.end = start + int(plan.seconds * PATIENCE_WITH_ITSELF * 1e9) + 1_000_000_000
        self._rate = plan.rate / 1e9
        self._burst = max(1, int(plan.rate * LONGEST_BURST))
        self._last = start

    def due(self, now: int) -> int:
        """Queries to send now; the caller adds those it sent to `sent`."""
        behind = min(self.total, int((now - self.start) * self._rate) + 1) - self.sent
        allowed = int((now - self._last) * self._rate * CATCH_UP) + 1
        self._last = now
        return max(0, min(behind, allowed, self._burst))

    def over(self, now: int) -> bool:
        return self.sent >= self.total or now > self.end


def turn_of(ident: int, first: int, last: int) -> int:
    """The latest turn up to `last` whose id it is, when turn 0 had the id `first`; negative: there is none."""
    return last - (first + last - ident & 0xFFFF)
