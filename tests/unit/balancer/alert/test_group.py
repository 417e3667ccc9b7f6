"""Grouping, reminders, recoveries, flapping; and that every transition is told exactly once, whatever happens."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.alert.group import (
    BAD,
    CALM,
    CHANGE,
    FLAPPING,
    GOOD,
    MOST_ITEMS,
    PROBLEM,
    RECOVERY,
    REMINDER,
    SETTLE,
    Book,
    Item,
    Limits,
    Notice,
    listing,
)
from balancer.component import Event

EPOCH = 1.7e9
LIMITS = Limits(group=2.0, repeat=3600.0, flap_changes=3, flap_period=600.0)


@dataclass
class Desk:
    """A book, a clock, and everything that was told."""

    limits: Limits = LIMITS
    now: float = 1000.0
    told: list[Notice] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.book = Book(self.limits)
        self.ids = 0

    def hear(self, after: str, subject: str = "dns/a", before: str = "?", kind: str = "server") -> None:
        self.ids += 1
        self.book.hear(Event(EPOCH + self.now, kind, subject, before, after, "why", f"{self.ids:09}"), self.now)

    def step(self) -> None:
        self.book.tick(self.now, EPOCH + self.now)
        notice = self.book.take(self.now, EPOCH + self.now)
        if notice is not None:
            self.told.append(notice)

    def wait(self, seconds: float) -> list[tuple[str, str, str]]:
        """Let time pass, waking when the book wants to; (what, subject, after) of all items told meanwhile."""
        end, first = self.now + seconds, len(self.told)
        while (wake := self.book.wake()) is not None and wake <= end:
            assert wake >= self.now - 1e-6, "a time that has passed"
            self.now = max(wake, self.now)
            self.step()
            again = self.book.wake()
            assert again is None or again > wake, "would spin"
        self.now = end
        self.step()
        return [(item.what, item.subject, item.after) for notice in self.told[first:] for item in notice.items]

    def restart(self, down: float = 0.0) -> None:
        plain = json.loads(json.dumps(self.book.export(self.now)))
        self.now += down
        self.book = Book.load(self.limits, plain, self.now)


def test_the_states_do_not_contradict_each_other() -> None:
    assert not BAD & GOOD


def test_what_comes_together_is_one_notice() -> None:
    desk = Desk()
    for subject in ("dns/a", "web/a", "mail/a"):
        desk.hear("down", subject)
        desk.now += 0.6
    assert desk.wait(10) == [(PROBLEM, "dns/a", "down"), (PROBLEM, "web/a", "down"), (PROBLEM, "mail/a", "down")]
    assert len(desk.told) == 1
    desk.hear("up", "web/a")
    desk.wait(10)
    assert len(desk.told) == 2


def test_recovery_tells_how_long() -> None:
    desk = Desk()
    desk.hear("down", before="up")
    desk.wait(200)
    desk.hear("up", before="down")
    desk.wait(10)
    problem, recovery = (notice.items[0] for notice in desk.told)
    assert (problem.what, problem.before, problem.after) == (PROBLEM, "up", "down")
    assert (recovery.what, recovery.before, recovery.after, recovery.reason) == (RECOVERY, "down", "up", "why")
    assert recovery.time - recovery.since == pytest.approx(200)
    assert recovery.id == problem.id == 1
    assert recovery.first == desk.told[0].number, "so that the mails make a thread"
    assert desk.book.open() == []


@pytest.mark.parametrize(
    ("states", "told"),
    [
        (["up"], []),
        (["up", "up"], []),
        (["down", "down"], [PROBLEM]),
        (["stale", "down", "up"], [PROBLEM, PROBLEM, RECOVERY]),
        (["down", "drained", "up"], [PROBLEM, RECOVERY]),
        (["active", "standby"], [CHANGE, CHANGE]),
        (["fault", "active"], [PROBLEM, RECOVERY]),
    ],
)
def test_transitions(states: list[str], told: list[str]) -> None:
    desk = Desk()
    for state in states:
        desk.hear(state)
        desk.now += 0.1
    assert [what for what, _, _ in desk.wait(10)] == told


def test_a_change_to_the_same_is_none() -> None:
    desk = Desk()
    desk.hear("active", before="active")
    assert desk.wait(10) == []


def test_reminders_until_recovery() -> None:
    desk = Desk()
    desk.hear("down")
    desk.wait(10)
    desk.wait(3 * 3600)
    assert [notice.items[0].what for notice in desk.told] == [PROBLEM, REMINDER, REMINDER, REMINDER]
    assert desk.told[-1].items[0].time - desk.told[-1].items[0].since == pytest.approx(3 * 3600, abs=10)
    desk.hear("up")
    assert desk.wait(7200) == [(RECOVERY, "dns/a", "up")]


def test_reminders_become_few() -> None:
    desk = Desk()
    for number in range(20):
        desk.hear("down", f"dns/{number}")
        desk.wait(60)
    desk.told.clear()
    desk.wait(10 * 3600)
    assert len(desk.told) <= 20
    assert sum(len(notice.items) for notice in desk.told) >= 180


def test_acknowledged_is_told_no_more_but_its_recovery_is() -> None:
    desk = Desk()
    desk.hear("down")
    desk.hear("down", "dns/b")
    desk.wait(10)
    assert [alert.subject for alert in desk.book.ack("2")] == ["dns/b"]
    assert [alert.subject for alert in desk.book.ack("server dns/b")] == ["dns/b"]
    assert {subject for _, subject, _ in desk.wait(7300)} == {"dns/a"}
    desk.hear("up", "dns/b")
    desk.book.ack("all")
    assert desk.wait(7300) == [(RECOVERY, "dns/b", "up")]
    assert desk.book.ack("dns/b") == []
    assert [alert.acked for alert in desk.book.open()] == [True]


def test_worse_than_acknowledged_is_told() -> None:
    desk = Desk()
    desk.hear("stale")
    desk.wait(10)
    desk.book.ack("all")
    desk.hear("down")
    assert desk.wait(10) == [(PROBLEM, "dns/a", "down")]
    assert desk.wait(3700) == [(REMINDER, "dns/a", "down")]


def test_flapping() -> None:
    desk = Desk()
    for _ in range(50):
        desk.hear("down")
        desk.wait(5)
        desk.hear("up")
        desk.wait(5)
    told = [item.what for notice in desk.told for item in notice.items]
    assert told == [PROBLEM, RECOVERY, PROBLEM, FLAPPING], "three changes, then one word"
    assert [(alert.state, alert.flapping, alert.changes) for alert in desk.book.open()] == [("up", True, 96)]
    desk.hear("down")
    assert desk.wait(599) == []
    assert desk.wait(5) == [(CALM, "dns/a", "down")]
    assert desk.told[-1].items[0].changes == 97
    assert desk.wait(3590) == []
    assert desk.wait(20) == [(REMINDER, "dns/a", "down")], "calm, and still open"
    desk.hear("up")
    assert desk.wait(10) == [(RECOVERY, "dns/a", "up")]


def test_flapping_that_ends_well() -> None:
    desk = Desk()
    for state in ("down", "up", "down", "up"):
        desk.hear(state)
    assert [what for what, _, _ in desk.wait(10)] == [PROBLEM, RECOVERY, PROBLEM, FLAPPING]
    assert desk.wait(600) == [(CALM, "dns/a", "up")]
    assert desk.book.open() == []
    desk.wait(1)
    assert desk.book.wake() is None, "forgotten"


def test_long_flapping_is_reminded_of() -> None:
    desk = Desk()
    for _ in range(40):
        desk.hear("down")
        desk.wait(100)
        desk.hear("up")
        desk.wait(100)
    assert [item.what for notice in desk.told for item in notice.items].count(REMINDER) == 2
    reminder = next(item for notice in desk.told for item in notice.items if item.what == REMINDER)
    assert reminder.before == "flapping"


def test_slow_changes_are_no_flapping() -> None:
    desk = Desk()
    for _ in range(20):
        desk.hear("down")
        desk.wait(301)
        desk.hear("up")
        desk.wait(301)
    assert {item.what for notice in desk.told for item in notice.items} == {PROBLEM, RECOVERY}


def test_an_event_is_heard_once() -> None:
    desk = Desk()
    event = Event(EPOCH, "server", "dns/a", "standby", "active", "why", "7")
    for _ in range(2):
        desk.book.hear(event, desk.now)
        desk.restart()
        desk.book.hear(event._replace(id="6"), desk.now)
    assert desk.wait(10) == [(CHANGE, "dns/a", "active")]


def test_restart_keeps_alerts_and_acknowledgements() -> None:
    desk = Desk()
    desk.hear("down")
    desk.hear("down", "dns/b")
    desk.wait(10)
    desk.book.ack("dns/b")
    before = desk.book.open()
    desk.restart(down=1e6)
    assert [alert.shown() for alert in desk.book.open()] == [alert.shown() for alert in before]
    assert desk.wait(3580) == []
    assert desk.wait(20) == [(REMINDER, "dns/a", "down")]


def test_what_is_not_told_again_after_a_start_ends() -> None:
    """Who told of it forgot that with the run; what is still wrong it finds, and the alert is the same one."""
    desk = Desk()
    for subject in ("dns/a", "dns/b", "dns/c"):
        desk.hear("down", subject)
    desk.wait(10)
    desk.book.ack("dns/b")
    desk.restart(down=60)
    desk.book.doubt(desk.now)
    before = desk.book.open()
    assert desk.wait(SETTLE / 2) == []
    desk.hear("down", "dns/b")
    desk.restart()                              # of the alert process alone: it remembers what it doubts
    desk.hear("up", "dns/c")
    assert desk.wait(SETTLE / 2 - 10) == [(RECOVERY, "dns/c", "up")]
    assert desk.wait(20) == [(RECOVERY, "dns/a", "gone")]
    assert [alert.shown() for alert in desk.book.open()] == [
        {**alert.shown(), "reason": "why"} for alert in before if alert.subject == "dns/b"]


def test_what_a_standby_held_before_a_start_it_holds_no_more() -> None:
    desk = Desk()
    desk.hear("down", "dns/b")
    desk.book.set_silent(True, desk.now)
    desk.hear("down")
    desk.restart()
    desk.book.doubt(desk.now)
    desk.hear("down", "dns/c")
    desk.book.set_silent(False, desk.now)
    assert desk.wait(10)[-1:] == [(PROBLEM, "dns/c", "down")]
    desk.book.doubt(desk.now)
    desk.book.set_silent(True, desk.now)        # as the active director it had one open, which nobody has confirmed
    desk.book.set_silent(False, desk.now)
    assert desk.book.open() == []


def test_what_was_about_to_be_told_is_told_at_once_with_its_number() -> None:
    desk = Desk()
    desk.hear("down")
    plain = desk.book.export(desk.now)
    desk.wait(10)
    desk.book = Book.load(desk.limits, plain, desk.now)
    desk.step()
    first, second = desk.told
    assert (first.number, first.items) == (second.number, second.items)


EMPTY = Book(LIMITS).export(0.0)


@pytest.mark.parametrize("data", [{}, [], None, EMPTY | {"number": "x"}, EMPTY | {"batch": [{}]},
                                  EMPTY | {"alerts": [{"kind": "x"}]}, EMPTY | {"alerts": [1]},
                                  EMPTY | {"batch": None}, EMPTY | {"held": [1]}])
def test_foreign_state_is_refused(data: object) -> None:
    with pytest.raises(ValueError):
        Book.load(LIMITS, data, 0.0)        # type: ignore[arg-type]


def test_a_flood_is_one_notice_of_bounded_size() -> None:
    desk = Desk()
    for number in range(10_000):
        desk.hear("down", f"{number} {'x' * 200}")
    desk.wait(10)
    (notice,) = desk.told
    assert len(notice.items) + notice.more == 10_000
    assert len(notice.items) == MOST_ITEMS
    assert len(notice.encode()) < 200_000
    assert len(desk.book.open()) == 5000
    rows = listing(desk.book.open(), 40_000)
    assert 0 < len(json.dumps(rows)) <= 40_000


def test_what_is_too_long_is_cut() -> None:
    desk = Desk()
    desk.book.hear(Event(float("nan"), "k" * 999, "s" * 999, "b" * 999, "a" * 999, "r" * 9999, "i" * 999), desk.now)
    desk.wait(10)
    assert len(desk.told[0].encode()) < 2000


def test_notice_as_bytes() -> None:
    notice = Notice(7, 1.5, (Item(PROBLEM, "k", "s", "b", "a", "r\n\x00é", 1.0, 2.0),), 3)
    assert Notice.decode(notice.encode()) == notice
    foreign = notice.encode().replace(b'"problem"', b'"what is that"')
    empty = Notice(7, 1.5, ()).encode()
    for bad in (foreign, empty, b"", b"{}", b"[1]", b"null", b"\xff", notice.encode()[:-9], b'{"items": [{}]}'):
        with pytest.raises(ValueError):
            Notice.decode(bad)


SUBJECTS = ("dns/a", "dns/b")
STATES = ("up", "ok", "down", "stale", "active", "standby")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(SUBJECTS), st.sampled_from(STATES)),
        st.sampled_from([0.0, 0.5, 3.0, 50.0, 700.0, 4000.0]),
        st.sampled_from(["restart", "ack"]),
    ),
    max_size=60,
)


@given(STEPS)
def test_every_transition_is_told_once(steps: list[tuple[str, str] | float | str]) -> None:
    """Whatever the order of events, waits, restarts and acknowledgements:

    - numbers grow; the items of a subject, in the order told, make a legal story that ends in the state it is in;
    - what a story leaves open is open in the book, and a good state at last closes all of it;
    - within any flap period a subject has at most flap_changes transitions told, one flapping and one calm.
    """
    desk = Desk()
    states: dict[str, str] = {}
    for step in steps:
        if isinstance(step, tuple):
            subject, state = step
            desk.hear(state, subject, before=states.get(subject, ""))
            states[subject] = state
        elif isinstance(step, float):
            desk.wait(step)
        elif step == "restart":
            desk.restart()
        else:
            desk.book.ack("all")
    desk.wait(2 * LIMITS.flap_period)
    numbers = [notice.number for notice in desk.told]
    assert numbers == sorted(set(numbers))
    for subject in SUBJECTS:
        story = [item for notice in desk.told for item in notice.items if item.subject == subject]
        is_open, flapping, last = False, False, None
        for item in story:
            if flapping:
                assert item.what in (CALM, REMINDER)
            elif item.what == PROBLEM:
                assert item.after in BAD and not (is_open and item.after == last)
            elif item.what == RECOVERY:
                assert is_open and item.after not in BAD
                assert item.time >= item.since
            elif item.what == CHANGE:
                assert not is_open and item.after not in BAD | GOOD
            else:
                assert item.what == FLAPPING or (item.what == REMINDER and is_open)
            if item.what != REMINDER:
                flapping = item.what == FLAPPING
                is_open = flapping or item.after in BAD
                last = item.after
        assert not flapping, "a flap period without changes has passed"
        in_book = {alert.subject: alert.state for alert in desk.book.open()}
        assert is_open == (subject in in_book)
        assert is_open == (states.get(subject) in BAD)
        assert not is_open or in_book[subject] == last == states[subject]
        for what, most in ((None, LIMITS.flap_changes), (FLAPPING, 1), (CALM, 1)):
            times = [item.time for item in story
                     if item.what == what or (what is None and item.what in (PROBLEM, RECOVERY, CHANGE))]
            # A flapping subject starts with a clean sheet when it is calm, which takes a period itself.
            for time in times:
                assert sum(1 for other in times if time <= other < time + LIMITS.flap_period) <= most
    for subject in SUBJECTS:
        desk.hear("ok", subject)
    desk.wait(LIMITS.flap_period + 10)
    assert desk.book.open() == []
    desk.wait(LIMITS.flap_period + 10)
    assert desk.book.wake() is None


def test_a_standby_is_silent_about_servers() -> None:
    """It holds what is wrong with servers, and speaks of it when it has become the active director."""
    desk = Desk()
    desk.book.set_silent(True, desk.now)
    desk.hear("down", "dns/b")
    desk.hear("up", "dns/b")
    desk.hear("down")
    desk.hear("hung", "worker 0", kind="worker")
    assert desk.wait(10) == [(PROBLEM, "worker 0", "hung")]
    desk.restart()
    assert desk.wait(10) == []
    desk.book.set_silent(False, desk.now)
    assert desk.wait(10) == [(PROBLEM, "dns/a", "down")]
    desk.book.set_silent(True, desk.now)
    assert [alert.subject for alert in desk.book.open()] == ["worker 0"], "the other director reminds of it now"
    desk.hear("up")
    desk.book.set_silent(False, desk.now)
    assert desk.wait(10) == []
