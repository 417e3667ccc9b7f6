"""What became of each query, and the result of a run. Pure: times are arguments (CLOCK_MONOTONIC, ns)."""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.load import percentile
from benchmarks.oneshot.plan import Plan

RCODES = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED")
SHOWN = 10
STALL = 50_000_000  # ns by which a wake must be late to count as a stall
LEAST_RATE = 0.98
NONE = -1


class Slow(NamedTuple):
    """A slow answer: sent (seconds after the start), how long it took, how long the client itself stood still
    meanwhile. Only what is beyond that can be the balancer's."""

    sent: float
    taken: float
    stalled: float


@dataclass
class Result:
    """Seconds throughout; `sent` of a lost query and `at` of a stall are after the start."""

    start: float = 0.0  # CLOCK_MONOTONIC
    rate: float = 0.0  # as sent
    sent: int = 0
    answered: int = 0
    late: int = 0  # answered after all, but too late: among the lost
    twice: int = 0
    wrong: int = 0  # answers to nothing that was asked
    refused: int = 0  # UDP: ICMP errors heard; TCP: connects refused
    reset: int = 0  # TCP: connections broken: reset, unreachable
    closed: int = 0  # TCP: connections closed while a query was unanswered
    rcodes: dict[str, int] = field(default_factory=dict)
    p50: float | None = None
    p99: float | None = None
    latest: float = 0.0  # the slowest answer
    latest_unstalled: float = 0.0  # the slowest answer, the client's own stalls taken off
    slowest: list[Slow] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    stalls: list[tuple[float, float]] = field(default_factory=list)  # (at, length) of the client's own
    cpu_us: float = 0.0  # the client's own CPU per query
    doubt: list[str] = field(default_factory=list)
    each: list[tuple[float, float | None]] = field(default_factory=list)  # where asked for: (sent, how long it took)


class Record:
    """The log of one run: query n was sent at `sent[n]` and took `taken[n]` ns, NONE while unanswered."""

    def __init__(self) -> None:
        self.sent, self.taken = array("q"), array("q")
        self.answered = self.twice = self.wrong = 0
        self.rcodes = [0] * 16
        self.stalls: list[tuple[int, int]] = []

    def send(self, now: int) -> int:
        """A query leaves now; its number."""
        self.taken.append(NONE)     # first: another thread may be reading up to what was sent
        self.sent.append(now)
        return len(self.sent) - 1

    def answer(self, number: int, at: int, rcode: int) -> None:
        """The true answer came at `at`, which is never before it was asked."""
        if self.taken[number] != NONE:
            self.twice += 1
            return
        self.taken[number] = max(0, at - self.sent[number])
        self.answered += 1
        self.rcodes[rcode] += 1

    def wake(self, before: int, now: int, tick: int) -> None:
        """Two wakes in a row; what is more than a tick between them is a stall."""
        if now - before - tick > STALL:
            self.stalls.append((before, now))

    def stalled(self, number: int) -> int:
        """For how long of a query's time the client itself stood still (ns)."""
        begin, end = self.sent[number], self.sent[number] + self.taken[number]
        return sum(max(0, min(end, until) - max(begin, since)) for since, until in self.stalls)

    def lost(self, since: int, until: int, limit: int) -> list[int]:
        """When those queries were sent, from `since` to before `until`, that had no answer within `limit` so far."""
        numbers = range(bisect_left(self.sent, since), bisect_left(self.sent, until))
        return [self.sent[number] for number in numbers if not 0 <= self.taken[number] <= limit]

    def count(self, since: int, until: int) -> int:
        """Queries sent from `since` to before `until`."""
        return bisect_left(self.sent, until) - bisect_left(self.sent, since)

    def result(
        self,
        plan: Plan,
        start: int,
        counts: Mapping[str, int],
        cpu: float,
        doubt: Sequence[str],
    ) -> Result:
        """Sum up; `counts` are fields of the result, `cpu` is in seconds."""
        limit = int(plan.patience * 1e9)
        numbers = range(len(self.sent))
        in_time = [number for number in numbers if 0 <= self.taken[number] <= limit]
        slowest = heapq.nlargest(SHOWN, in_time, key=self.taken.__getitem__)
        taken = sorted(self.taken[number] / 1e9 for number in in_time)
        span = (self.sent[-1] - start) / 1e9 if self.sent else 0.0
        achieved = (len(self.sent) - 1) / span if span else plan.rate
        doubts = list(doubt)
        if len(self.sent) < plan.total or achieved < LEAST_RATE * plan.rate:
            doubts.append(
                f"sent {len(self.sent):,} of {plan.total:,}, {achieved:,.0f} instead of {plan.rate:,.0f} per second"
            )
        return Result(
            start=start / 1e9,
            rate=achieved,
            sent=len(self.sent),
            answered=len(in_time),
            late=self.answered - len(in_time),
            twice=self.twice,
            wrong=self.wrong,
            **counts,
            rcodes={rcode_name(code): count for code, count in enumerate(self.rcodes) if count},
            p50=percentile(taken, 0.50),
            p99=percentile(taken, 0.99),
            latest=taken[-1] if taken else 0.0,
            latest_unstalled=max((self.taken[n] - self.stalled(n) for n in in_time), default=0) / 1e9,
            slowest=[Slow((self.sent[n] - start) / 1e9, self.taken[n] / 1e9, self.stalled(n) / 1e9) for n in slowest],
            lost=[(self.sent[n] - start) / 1e9 for n in numbers if not 0 <= self.taken[n] <= limit],
            stalls=[((since - start) / 1e9, (until - since) / 1e9) for since, until in self.stalls],
            cpu_us=cpu * 1e6 / max(1, len(self.sent)),
            doubt=doubts,
            each=[
                ((sent - start) / 1e9, None if taken == NONE else taken / 1e9)
                for sent, taken in zip(self.sent, self.taken, strict=True)
            ]
            if plan.each
            else [],
        )


def rcode_name(code: int) -> str:
    return RCODES[code] if code < len(RCODES) else str(code)
