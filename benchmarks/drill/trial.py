"""One step after the other: do it, watch until it is over, and say what it cost."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Self

from benchmarks.drill.faults import Fault, Step
from benchmarks.drill.site import NODES, Site
from benchmarks.drill.watching import PATIENCE, RATE, Asking, Events, FirstAnswer, Flow, Mails, Seen

LONGEST = 45.0              # seconds for a step to be over
QUIET = 2.5                 # seconds without an event or a mail until the next step: alerts are grouped for 2 s
LONGEST_QUIET = 15.0
CALM = 3.0                  # seconds before anything breaks
LOOK = 0.01
SETTLE = 0.2                # between two looks at what is asked of ns7 itself


@dataclass
class Outcome:
    """What a step was seen to do. Times are seconds since 1970; noticed and taken are seconds after it began."""

    fault: str
    mending: bool
    what: str
    how: str                # what "taken" means
    began: float
    ended: float = 0.0
    noticed: float | None = None
    taken: float | None = None
    lost: int = 0
    sent: int = 0
    mails: list[str] = field(default_factory=list)
    events: list[Seen] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)     # what should have happened, and did not


class Drill:
    """A site with everything that watches it. A context manager."""

    def __init__(self, site: Site, rate: float = RATE) -> None:
        self.site = site
        self.events = [Events(site, host) for host in NODES]
        self.mails, self.flow, self.asking = Mails(site), Flow(site), Asking(site, rate)
        self.outcomes: list[Outcome] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for watcher in (self.mails, *self.events):
            self._stack.callback(watcher.close)
            watcher.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def load(self) -> Outcome:
        """The site is up: the queries begin, and for a while nothing breaks."""
        self._rest(time.time())
        for watcher in (self.flow, self.asking):
            self._stack.callback(watcher.close)
            watcher.start()
        calm = Outcome("", False, "nothing is broken", "", time.time())
        time.sleep(CALM)
        self._end(calm)
        return calm

    def run(self, fault: Fault) -> Iterator[tuple[Step, Outcome | None]]:
        """Each step twice: when it begins, and with what came of it."""
        for step in fault.steps:
            yield step, None
            yield step, self._run(fault, step)

    def finish(self) -> None:
        """The queries end; now all of them are known, and counted to the step in which they were sent."""
        self.flow.close()
        self.asking.close()
        for outcome, following in zip(self.outcomes, [*self.outcomes[1:], None], strict=True):
            until = following.began if following else time.time()
            self._count(outcome, until)

    def seen(self, since: float) -> list[Seen]:
        """The events of all hosts from then on, in order."""
        return sorted(one for each in self.events for one in list(each.seen) if one.time >= since)

    def _run(self, fault: Fault, step: Step) -> Outcome:
        site, mending = self.site, step is not fault.steps[0]
        how = f"{step.by} answers" if step.by else "both serve it"
        outcome = Outcome(fault.name, mending, step.what, how, time.time())
        first = FirstAnswer(site, step.by) if step.by else None
        try:
            outcome.began = step.do(site) or outcome.began
            deadline, looked = time.monotonic() + LONGEST, 0.0
            while True:
                outcome.missed = self._look(step, outcome, first)
                if not outcome.missed and time.monotonic() - looked > SETTLE:
                    looked = time.monotonic()
                    if step.until(site):
                        break
                    outcome.missed = ["all well again"]
                if time.monotonic() > deadline:
                    break
                time.sleep(LOOK)
        finally:
            if first:
                first.close()
        self._rest(time.time())
        self._end(outcome)
        return outcome

    def _end(self, outcome: Outcome) -> None:
        outcome.ended = time.time()
        outcome.mails = [mail.subject for mail in self.mails.seen if mail.time >= outcome.began]
        outcome.events = self.seen(outcome.began)
        self._count(outcome, outcome.ended - PATIENCE)
        self.outcomes.append(outcome)

    def _look(self, step: Step, outcome: Outcome, first: FirstAnswer | None) -> list[str]:
        """What is still to come."""
        if outcome.noticed is None:
            found = [seen for seen in self.seen(outcome.began) if step.noticed.matches(seen)]
            outcome.noticed = found[0].time - outcome.began if found else None
        if outcome.taken is None and first is not None and first.at is not None:
            outcome.taken = first.at - outcome.began
        if outcome.taken is None and step.served and self.site.is_published():
            outcome.taken = time.time() - outcome.began
        texts = [mail.text for mail in self.mails.seen if mail.time >= outcome.began]
        missed = [f"mail {pattern}" for pattern in step.mails if not any(re.search(pattern, text) for text in texts)]
        if outcome.noticed is None:
            missed.append(f"event {step.noticed}")
        if outcome.taken is None and (step.by or step.served):
            missed.append(f"answers by {step.by}" if step.by else "both serve it")
        return missed

    def _count(self, outcome: Outcome, until: float) -> None:
        outcome.lost = len(self.asking.lost(outcome.began, until))
        outcome.sent = self.asking.sent(outcome.began, until)

    def _rest(self, since: float) -> None:
        """Until nobody has said anything for a while."""
        while time.time() - since < LONGEST_QUIET:
            heard = [one.time for one in self.seen(since)] + [one.time for one in self.mails.seen]
            if time.time() - max([since, *heard]) > QUIET:
                return
            time.sleep(0.1)
