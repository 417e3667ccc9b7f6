"""What is told of a drill: a line while it runs, the table, what is promised, the legend of the time line. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import goals
from benchmarks.drill.picture import Span
from benchmarks.drill.trial import Outcome
from benchmarks.report import Goal, at_least, at_most, table

WIDTH = 42                  # of the first column


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def summary(outcome: Outcome) -> str:
    """The rest of a step's line."""
    words = [f"noticed after {seconds(outcome.noticed)}"]
    if outcome.taken is not None:
        words.append(f"{outcome.how} after {seconds(outcome.taken)}")
    words += [f"{outcome.lost:,} lost", f"{len(outcome.mails)} mail{'' if len(outcome.mails) == 1 else 's'}"]
    return ", ".join(words) + (f"; MISSING: {'; '.join(outcome.missed)}" if outcome.missed else "")


def outcomes_table(outcomes: Sequence[Outcome]) -> str:
    return table(["fault", "noticed after", "taken over after", "queries lost", "mails sent"], [
        [one.what, seconds(one.noticed), seconds(one.taken), f"{one.lost:,}", str(len(one.mails))]
        for one in outcomes])


def bars(outcomes: Sequence[Outcome]) -> list[Goal]:
    """What is promised of it."""
    found: list[Goal] = []
    for one in outcomes:
        if one.fault == "server" and not one.mending:
            found += [at_most(f"{one.what}: lost", one.lost, goals.LOST, digits=0),
                      at_most(f"{one.what}: noticed", one.noticed, goals.DRILL_NOTICED, " s"),
                      at_least(f"{one.what}: mails", len(one.mails), 1, digits=0)]
        elif one.fault in ("director", "edit") and not one.mending:
            bar = goals.DRILL_TAKEN if one.fault == "director" else goals.DRILL_SERVED
            found.append(at_most(f"{one.what}: {one.how}", one.taken, bar, " s"))
    return found


def spans(outcomes: Sequence[Outcome]) -> list[Span]:
    """Each fault with its mending as one."""
    found: list[Span] = []
    for one in outcomes:
        if not one.fault:
            continue
        if one.mending:
            found[-1] = Span(found[-1].began, one.began, f"{found[-1].text}; mended: {one.lost:,} lost")
        else:
            found.append(Span(one.began, None, f"{one.what}: {summary(one)}"))
    return found
