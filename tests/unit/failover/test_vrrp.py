"""The state machine: alone, in pairs, in threes, over links that lose."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from failover.vrrp import LEAVING, RELEASED, TABLE, TAKEN, UNFIT, Act, Heard, Input, Machine, Settings, State
from tests.unit.failover.directors import Director, Link

GOOD, LESS = "192.0.2.1", "192.0.2.2"


def pair(preempt: bool = True, interval: float = 0.3) -> tuple[Link, Director, Director]:
    """The better director active, the other one standby."""
    link = Link()
    good, less = link.add(1, 200, interval, preempt), link.add(2, 100, interval, preempt)
    good.start()
    less.start()
    link.run(3 * interval * 4)
    assert (link.active(), link.holders()) == ([GOOD], [GOOD])
    return link, good, less


@pytest.mark.parametrize(("interval", "priority", "expected"), [
    (1.0, 100, 3.609), (1.0, 200, 3.219), (0.3, 100, 1.083), (0.3, 254, 0.902), (0.1, 150, 0.341)])
def test_active_down_interval(interval: float, priority: int, expected: float) -> None:
    """RFC 9568 §6.1, with the figures of other implementations."""
    machine = Machine(Settings(priority, interval, True, GOOD), lambda active, reason: None)
    assert machine.down_interval == pytest.approx(expected, abs=5e-4)


def test_alone() -> None:
    link = Link()
    one = link.add(1)
    one.start()
    link.run(1.0)
    assert link.active() == []
    link.run(0.2)
    assert (link.active(), link.holders()) == ([GOOD], [GOOD])
    assert one.changes[0][1:] == (True, "nobody else was heard")
    link.run(3.0)
    assert len(link.adverts) == pytest.approx(11, abs=1) and {priority for _, _, priority in link.adverts} == {100}


@pytest.mark.parametrize("interval", [0.1, 0.3, 1.0])
def test_a_dead_director_is_followed_in_time(interval: float) -> None:
    link, good, less = pair(interval=interval)
    good.crash()
    died = link.now
    link.run(less.machine.down_interval + 0.01)
    assert link.active() == [LESS] and less.changes[-1][0] - died <= less.machine.down_interval + 0.01
    assert "no advert from 192.0.2.1" in less.changes[-1][2]
    assert less.announced


def test_the_better_one_takes_over_when_it_returns() -> None:
    """The address is there and announced before its first advert; there is always a holder."""
    link, good, less = pair()
    good.crash()
    link.run(2)
    good.start()
    for _ in range(400):
        link.run(0.01)
        assert link.holders()
    assert (link.active(), link.holders()) == ([GOOD], [GOOD])
    first = next(at for at, who, _ in reversed(link.adverts) if who == LESS)
    assert good.announced[-1] <= min(at for at, who, _ in link.adverts if who == GOOD and at > first)
    assert less.changes[-1][2] == "192.0.2.1 is better (priority 200, 100 here)"


def test_no_preemption() -> None:
    link, good, _ = pair(preempt=False)
    good.crash()
    link.run(2)
    good.start()
    link.run(10)
    assert link.active() == [LESS]


@pytest.mark.parametrize("preempt", [True, False])
def test_who_cannot_serve_is_relieved(preempt: bool) -> None:
    link, good, less = pair(preempt)
    good.do(good.machine.set_fit(False, link.now))
    assert link.adverts[-1][2] == UNFIT
    link.run(2)
    assert (link.active(), link.holders()) == ([LESS], [LESS])
    less.do(less.machine.set_fit(False, link.now))
    before = len(good.changes) + len(less.changes)
    link.run(10)
    assert link.active() == [LESS] and len(good.changes) + len(less.changes) == before, "two unfit ones serve from one"
    good.do(good.machine.set_fit(True, link.now))
    link.run(2)
    assert link.active() == [GOOD]


def test_release_is_make_before_break() -> None:
    link, good, less = pair()
    good.do(good.machine.ask("released", link.now))
    assert link.adverts[-1][2] == LEAVING
    for _ in range(200):
        link.run(0.01)
        assert link.holders()
    assert (link.active(), link.holders()) == ([LESS], [LESS])
    link.run(10)
    assert link.active() == [LESS], "it does not come back by itself"
    less.crash()
    link.run(2)
    assert link.active() == [GOOD], "but serves when there is nobody else"
    assert link.adverts[-1][2] == RELEASED
    less.start()
    link.run(3)
    assert link.active() == [LESS]
    good.do(good.machine.ask("auto", link.now))
    link.run(3)
    assert link.active() == [GOOD]


def test_release_without_a_standby_is_taken_back() -> None:
    link, good, less = pair()
    less.crash()
    good.do(good.machine.ask("released", link.now))
    for _ in range(300):
        link.run(0.01)
        assert link.holders() == [GOOD]
    assert good.machine.state is State.ACTIVE and good.machine.wish == "auto" and len(good.changes) == 1


def test_stop() -> None:
    link, good, less = pair()
    good.do(good.machine.stop(link.now))
    for _ in range(200):
        link.run(0.01)
        assert link.holders()
    assert good.machine.state is State.ENDED and link.holders() == [LESS]
    less.do(less.machine.stop(link.now))
    link.run(2)
    assert less.machine.state is State.ENDED and link.holders() == []


def test_takeover_by_an_operator() -> None:
    link, _good, less = pair()
    less.do(less.machine.ask("taken", link.now))
    link.run(0.3)
    assert link.active() == [LESS] and link.adverts[-1][2] == TAKEN
    link.run(5)
    assert (link.active(), link.holders()) == ([LESS], [LESS])
    less.do(less.machine.ask("auto", link.now))
    link.run(2)
    assert link.active() == [GOOD]


def test_a_conflict_ends_the_attempt() -> None:
    link, _good, less = pair()
    less.do(less.machine.ask("taken", link.now))
    assert less.machine.state is State.PROBING
    less.do(less.machine.on_failed(link.now, "held by a stranger"))
    assert less.machine.state is State.BACKUP and not less.holds


@pytest.mark.parametrize("flaps", [1, 10])
def test_split_brain_heals(flaps: int) -> None:
    link, good, _less = pair()
    for _ in range(flaps):
        link.cut = {LESS}
        link.run(2)
        assert link.active() == [GOOD, LESS]
        link.cut = set()
        healed = link.now
        link.run(0.5)
        assert (link.active(), link.holders()) == ([GOOD], [GOOD])
        assert good.announced[-1] >= healed, "the winner tells the link"


def test_a_director_that_stood_still() -> None:
    """It claims anew before it speaks, and yields at once to a better one."""
    link, good, less = pair()
    good.running = False                                # neither hears nor sends
    link.run(5)
    assert link.active() == [LESS]
    good.running = True
    good.do(good.machine.on_stall(link.now))
    assert good.machine.state is State.CLAIMING
    link.run(0.5)
    assert (link.active(), link.holders()) == ([GOOD], [GOOD])
    less.running = False
    link.run(5)
    less.running = True
    less.do(less.machine.on_stall(link.now))
    link.run(3)
    assert link.active() == [GOOD] and len(good.changes) == 1


def test_lower_adverts_are_answered_but_not_without_end() -> None:
    link, good, _ = pair()
    before = len(link.adverts)
    for _ in range(1000):
        good.hear(Heard(1, 0.3, "192.0.2.66"))
        good.hear(Heard(0, 0.3, "192.0.2.66"))
    assert len(link.adverts) == before + 1


def test_interval_is_learnt() -> None:
    link = Link()
    slow, quick = link.add(1, 200, 1.0), link.add(2, 100, 0.3)
    slow.start()
    link.run(5)
    quick.start()
    link.run(10)
    assert link.active() == [GOOD] and quick.machine.down_interval == pytest.approx(3.609, abs=1e-3)


def test_the_table_names_every_input() -> None:
    assert {what for _, what in TABLE} == set(Input)
    assert {state for state, _ in TABLE} == set(State) - {State.ENDED}


PRIORITIES = st.integers(3, 253)
WHAT = ["cut", "mend", "crash", "start", "unfit", "fit", "release", "take", "auto"]
TROUBLE = st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 2), st.floats(0, 2)), max_size=12)
SENDERS = st.sampled_from(["192.0.2.9", "192.0.2.0"])


@settings(max_examples=60)
@given(priorities=st.lists(PRIORITIES, min_size=2, max_size=3), loss=st.floats(0, 0.6), seed=st.integers(0, 1 << 32),
       preempt=st.booleans(), trouble=TROUBLE)
def test_one_holder_after_any_trouble(priorities: list[int], loss: float, seed: int, preempt: bool,
                                      trouble: list[tuple[str, int, float]]) -> None:
    """Whatever was lost, cut and killed: seconds later exactly one director has the address, and it is the best."""
    link = Link(seed, loss)
    directors = [link.add(number, priority, 0.3, preempt) for number, priority in enumerate(priorities, 1)]
    for one in directors:
        one.start()
    for what, number, seconds in trouble:
        one = directors[number % len(directors)]
        match what:
            case "cut":
                link.cut.add(one.address)
            case "mend":
                link.cut.discard(one.address)
            case "crash":
                one.crash()
            case "start" if not one.running:
                link.directors[directors.index(one)] = directors[directors.index(one)] = one = Director(
                    link, directors.index(one) + 1, one.machine.settings.priority, 0.3, preempt)
                one.start()
            case "unfit" | "fit" if one.running:
                one.do(one.machine.set_fit(what == "fit", link.now))
            case "release" | "take" | "auto" if one.running:
                one.do(one.machine.ask({"release": "released", "take": "taken"}.get(what, what), link.now))
        link.run(seconds)
    link.cut, link.loss = set(), 0.0
    link.run(8)
    alive = [one for one in directors if one.running]
    assert link.active() == link.holders() and len(link.active()) == (1 if alive else 0)
    if alive and preempt:
        (holder,) = (one for one in alive if one.holds)
        assert holder.machine.priority == max(one.machine.priority for one in alive)
    changes = sum(len(one.changes) for one in directors)
    link.run(10)
    assert sum(len(one.changes) for one in directors) == changes, "and it stays so"


@given(st.lists(st.tuples(st.sampled_from(list(Input)), st.integers(0, 255), SENDERS)))
def test_no_input_is_too_much(inputs: list[tuple[Input, int, str]]) -> None:
    """In any state, whatever comes: it advertises only as the active one, and lets go only of what it had claimed."""
    machine = Machine(Settings(100, 0.3, True, GOOD), lambda active, reason: None)
    machine.start(0.0)
    now, claimed = 0.0, False
    for what, priority, source in inputs:
        now += 0.05
        match what:
            case Input.TIMER:
                acts = machine.on_time(max(now, machine.wake))
                now = max(now, machine.wake - 1)
            case Input.CLAIMED:
                acts = machine.on_claimed(now) if machine.state is State.CLAIMING else []
            case Input.FAILED:
                acts = machine.on_failed(now, "no") if machine.state in (State.CLAIMING, State.PROBING) else []
            case Input.TAKE | Input.LEAVE:
                acts = machine.ask("taken" if what is Input.TAKE else "released", now)
            case Input.STALL:
                acts = machine.on_stall(now)
            case _:
                acts = machine.on_advert(Heard(priority, 0.3, source), now)
        claimed = claimed or Act.CLAIM in acts
        assert claimed or Act.ADVERT not in acts
        if Act.YIELD in acts:
            assert not machine.active
        elif Act.ADVERT in acts:
            assert machine.active
        assert machine.wake > now - 1
