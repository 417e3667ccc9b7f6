"""Rise and fall: what a row of probes says about one server over one protocol. Pure: `now` is an argument, in seconds.

    unknown ── answered ─────────────────────▶ up
    unknown, up ── `fall` failures in a row ──▶ down
    down ── `rise` answers in a row ─────────▶ up

A failure is a probe that was answered wrongly, refused, or not answered. What the workers see of their clients'
queries counts beside it, so that there is one verdict:

- a suspicion counts as a failure (once per suspicion), and asks for a probe at once;
- a probe that is *refused* while the workers suspect the server, or clients' queries were refused or wait for it, is
  proof: down, whatever the count;
- a probe that is merely silent while clients got answers proves that datagrams are lost, not that a server is dead:
  it counts neither way. Servers that are swamped stay, for they answer.

Damping: a server that fell N times within `flap_period` must answer rise * 2^(N-1) probes in a row, at most
RISE_MOST times `rise`, so that one that comes and goes stays out for longer each time.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

from balancer.table.verdicts import DOWN, UNKNOWN, UP

RISE_MOST = 16


class Severity(enum.IntEnum):
    """How bad a failure is: of servers that are all down the least bad stay in use."""

    NONE = 0
    STALE = 1           # answers, with old data
    WRONG = 2           # answers, but not what it should
    DEAD = 3            # does not answer


class Rules(NamedTuple):
    """The settings that matter here; flap_period in seconds, 0: no damping."""

    fall: int
    rise: int
    flap_period: float


class Result(NamedTuple):
    """How one probe ended. reason: one line, "" when it was answered well. refused: somebody said that nobody is there.

    silent: nothing that belongs to it came. latency: seconds until the answer, None without one.
    """

    severity: Severity = Severity.NONE
    reason: str = ""
    latency: float | None = None
    refused: bool = False
    silent: bool = False

    @property
    def good(self) -> bool:
        return self.severity is Severity.NONE


class Change(NamedTuple):
    """A verdict that has changed. lasted: seconds that the one before stood, None when it was unknown."""

    before: str
    after: str
    reason: str
    lasted: float | None


@dataclass
class Standing:
    """One server over one protocol. All times are `now`'s; None: never."""

    verdict: str = UNKNOWN
    since: float | None = None
    returned: float | None = None
    reason: str = ""                    # of the last failure
    severity: Severity = Severity.NONE  # of the last failure, NONE while it is up
    failures: int = 0                   # in a row
    answers: int = 0                    # in a row, since it is down
    last_good: float | None = None
    suspected: bool = False
    doubted: bool = False               # by clients' queries; so is who is suspected
    falls: list[float] = field(default_factory=list)

    def suspect(self, suspected: bool) -> bool:
        """The workers suspect the server, or do not; whether that is new and calls for a probe at once."""
        new = suspected and not self.suspected
        self.suspected = suspected
        if new and self.verdict != DOWN:
            self.failures += 1
        return new

    def take(self, result: Result, rules: Rules, now: float, heard: bool = False) -> Change | None:
        """A probe has ended. heard: since it began, clients got answers from the server."""
        if result.silent and heard and self.verdict != DOWN:
            return None
        if result.good:
            return self._answered(rules, now)
        self.answers = 0
        self.failures += 1
        self.reason, self.severity = result.reason, result.severity
        proof = result.refused and (self.suspected or self.doubted)
        if self.verdict == DOWN or not (self.failures >= rules.fall or proof):
            return None
        self.falls = [fall for fall in self.falls if now - fall < rules.flap_period] + [now]
        told = "and clients' queries are not answered" if proof else f"{self.failures} times in a row"
        return self._turn(DOWN, f"{self.reason}, {told}", now)

    def _answered(self, rules: Rules, now: float) -> Change | None:
        self.last_good = now
        self.failures = 0
        if self.verdict == DOWN:
            self.answers += 1
            if self.answers < self.needed(rules, now):
                return None
            self.returned = now
            self.severity = Severity.NONE
            return self._turn(UP, f"answered {self.answers} probes in a row", now)
        self.severity = Severity.NONE
        return self._turn(UP, "", now) if self.verdict == UNKNOWN else None

    def needed(self, rules: Rules, now: float) -> int:
        """Answers in a row that bring it back."""
        lately = sum(1 for fall in self.falls if now - fall < rules.flap_period)
        return rules.rise * min(RISE_MOST, 1 << max(0, min(lately, 8) - 1))

    def _turn(self, after: str, reason: str, now: float) -> Change:
        lasted = None if self.since is None else now - self.since
        change = Change(self.verdict, after, reason, lasted)
        self.verdict, self.since, self.answers = after, now, 0
        return change

    @property
    def troubled(self) -> bool:
        """Whether it is about to fall: probes follow each other fast."""
        return self.failures > 0 and self.verdict != DOWN

    @property
    def moving(self) -> bool:
        """Whether it is about to fall or to rise."""
        return self.troubled or (self.verdict == DOWN and self.answers > 0)


def spared(candidates: dict[int, Standing], least: int) -> set[int]:
    """Who is down and stays in use, so that `least` servers (if there are so many) may be chosen.

    The least bad come first, and among equals who answered last. Where nobody is up all of the least bad are spared:
    what speaks against all of them alike (a zone that none has, say) is more likely our own mistake.
    """
    down = sorted((key for key, one in candidates.items() if one.verdict == DOWN),
                  key=lambda key: (candidates[key].severity, -(candidates[key].last_good or 0.0), key))
    up = len(candidates) - len(down)
    if not down or up >= least:
        return set()
    count = least - up
    if up == 0:
        count = max(count, sum(1 for key in down if candidates[key].severity == candidates[down[0]].severity))
    return set(down[:count])
