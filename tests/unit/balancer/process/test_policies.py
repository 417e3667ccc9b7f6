"""Restart policy and the watch over heartbeats: pure, so time is an argument."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from balancer.component import Event
from balancer.process.children import Backoff
from balancer.process.events import KEPT, Events
from balancer.process.workers import Watch


def test_backoff_doubles_up_to_five_seconds() -> None:
    backoff, now, delays = Backoff(), 0.0, []
    for _ in range(9):
        delays.append(backoff.ended(now, now + 0.01))
    assert delays == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_backoff_is_forgotten_after_thirty_seconds_alive() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.ended(0, 1)
    assert backoff.ended(100, 129.9) > 0
    assert backoff.ended(200, 230) == 0.0


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=200))
def test_a_beating_heart_is_never_hung(gaps: list[float]) -> None:
    """However late the watcher looks."""
    now, watch = 0.0, Watch(1.0, 0.05, 0.0)
    for beat, gap in enumerate(gaps):
        now += gap
        assert not watch.look(beat, now)


def test_hung_after_the_timeout() -> None:
    watch = Watch(1.0, 0.05, 0.0)
    looks = [watch.look(7, 0.05 * step) for step in range(1, 40)]
    assert not any(looks[:20])
    assert looks[21] and looks[30]


def test_the_watchers_own_standstill_counts_little() -> None:
    """A minute in which the whole machine stood still is one look, not a minute."""
    watch = Watch(1.0, 0.05, 0.0)
    watch.look(1, 0.05)
    assert not watch.look(1, 60.0)
    assert watch.still <= 0.1
    assert not watch.look(2, 60.05)


def test_event_ids_grow_and_catching_up_is_exact() -> None:
    heard: list[Event] = []
    logged: list[Event] = []
    events = Events(heard.append, logged.append)
    for number in range(KEPT + 50):
        events.tell("server", f"s{number}", "up", "down", "why")
    ids = [event.id for event in heard]
    assert ids == sorted(set(ids))
    assert [event.subject for event in events.since(ids[-3])] == [f"s{KEPT + 48}", f"s{KEPT + 49}"]
    assert len(events.since("")) == KEPT
    assert logged == heard, "numbered already"


def test_who_changed_what_is_told_when_it_has_changed() -> None:
    heard: list[Event] = []
    events = Events(heard.append, lambda event: None)
    events.audit("stop", "running", "running", "anna")
    events.audit("stop", "running", "stopping", "anna")
    assert [event[1:6] for event in heard] == [("audit", "stop", "running", "stopping", "by anna")]
