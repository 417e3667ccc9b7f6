"""Events on change only, paced, and remembered."""

from __future__ import annotations

from balancer.component import Event
from health.news import BURST, News


class Paper:
    """A News with its clock and its readers."""

    def __init__(self, told: dict[str, str] | None = None) -> None:
        self.now, self.events = 100.0, list[Event]()
        self.news = News(self.events.append, lambda: self.now, told or {})

    def lines(self) -> list[tuple[str, str, str, str]]:
        return [event[1:5] for event in self.events]


def test_only_changes_are_told() -> None:
    paper = Paper()
    for state in ("up", "up", "down", "down", "up", "up"):
        paper.news.tell("server", "s/a", "up", state, "why")
    assert paper.lines() == [("server", "s/a", "up", "down"), ("server", "s/a", "down", "up")]
    assert paper.news.told == {} and paper.news.changed


def test_a_successor_knows_what_was_told() -> None:
    paper = Paper({"server s/a": "down"})
    paper.news.tell("server", "s/a", "up", "down", "still")
    assert paper.events == []
    paper.news.tell("server", "s/a", "up", "up", "well")
    assert paper.lines() == [("server", "s/a", "down", "up")]


def test_what_is_gone_ends() -> None:
    paper = Paper({"server s/a": "down", "zone s/a x.example": "stale", "server s/b": "down"})
    paper.news.forget(lambda kind, subject: subject.startswith("s/a"))
    assert paper.lines() == [("server", "s/a", "down", "gone"), ("zone", "s/a x.example", "stale", "gone")]
    assert paper.news.told == {"server s/b": "down"}


def test_many_at_once_are_all_told_in_order() -> None:
    paper = Paper()
    for number in range(256):
        paper.news.tell("server", f"s/{number}", "up", "down", "")
    assert len(paper.events) == BURST
    while len(paper.events) < 256:
        before = len(paper.events)
        paper.now += 1
        paper.news.flush()
        assert len(paper.events) - before == min(10, 256 - before)
    assert [event.subject for event in paper.events] == [f"s/{number}" for number in range(256)]
