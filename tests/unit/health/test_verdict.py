"""Rise and fall: by example, and against a plain oracle for any row of probes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from balancer.table.verdicts import DOWN, UNKNOWN, UP
from health.verdict import Result, Rules, Severity, Standing, spared

RULES = Rules(fall=3, rise=2, flap_period=0.0)
GOOD = Result(latency=0.001)
WRONG = Result(Severity.WRONG, "REFUSED")
REFUSED = Result(Severity.DEAD, "connection refused", refused=True)
SILENT = Result(Severity.DEAD, "no answer", silent=True)


def feed(standing: Standing, *results: Result, rules: Rules = RULES, heard: bool = False) -> list[str]:
    """What it is after each of these, one second apart."""
    seen = []
    for result in results:
        now = (standing.since or 0.0) + 1.0
        standing.take(result, rules, now, heard)
        seen.append(standing.verdict)
    return seen


def test_falls_after_three_and_rises_after_two() -> None:
    standing = Standing()
    assert feed(standing, GOOD, SILENT, WRONG, GOOD, SILENT, SILENT) == [UP] * 6
    assert feed(standing, WRONG) == [DOWN]
    assert feed(standing, GOOD, WRONG, GOOD) == [DOWN] * 3
    assert feed(standing, GOOD) == [UP]


def test_unknown_is_up_at_the_first_answer_and_down_as_late_as_anybody() -> None:
    assert feed(Standing(), GOOD) == [UP]
    assert feed(Standing(), SILENT, SILENT, SILENT) == [UNKNOWN, UNKNOWN, DOWN]


def test_change_tells_reason_and_how_long_it_lasted() -> None:
    standing = Standing()
    standing.take(GOOD, RULES, 10.0)
    standing.take(WRONG, RULES, 20.0)
    standing.take(SILENT, RULES, 21.0)
    change = standing.take(REFUSED, RULES, 22.0)
    assert change is not None
    assert change == (UP, DOWN, "connection refused, 3 times in a row", 12.0)
    assert (standing.since, standing.severity) == (22.0, Severity.DEAD)
    standing.take(GOOD, RULES, 30.0)
    change = standing.take(GOOD, RULES, 31.0)
    assert change == (DOWN, UP, "answered 2 probes in a row", 9.0)
    assert (standing.returned, standing.severity) == (31.0, Severity.NONE)


def test_suspicion_counts_once_and_a_refusal_proves_it() -> None:
    standing = Standing()
    feed(standing, GOOD)
    assert standing.suspect(True) and not standing.suspect(True)
    assert standing.troubled
    assert feed(standing, SILENT, SILENT) == [UP, DOWN], "the suspicion was the first failure"
    standing = Standing()
    feed(standing, GOOD)
    standing.suspect(True)
    change = standing.take(REFUSED, RULES, 5.0)
    assert change is not None and change.after == DOWN and "clients" in change.reason
    standing = Standing()
    feed(standing, GOOD)
    assert feed(standing, REFUSED) == [UP], "one refusal alone may be a restart, or a lie"


def test_a_doubt_needs_a_refused_probe() -> None:
    """A client's query that waits proves nothing; with a probe that is refused it does."""
    standing = Standing()
    feed(standing, GOOD)
    standing.doubted = True
    assert not standing.troubled
    assert feed(standing, SILENT, WRONG, GOOD) == [UP] * 3
    change = standing.take(REFUSED, RULES, 5.0)
    assert change is not None and change.after == DOWN
    assert change.reason == "connection refused, and clients' queries are not answered"


def test_a_suspicion_that_was_wrong_leaves_no_trace() -> None:
    standing = Standing()
    feed(standing, GOOD)
    standing.suspect(True)
    feed(standing, GOOD)
    standing.suspect(False)
    assert feed(standing, SILENT, SILENT) == [UP, UP]


def test_silence_proves_nothing_while_clients_are_answered() -> None:
    standing = Standing()
    feed(standing, GOOD)
    assert feed(standing, *[SILENT] * 50, heard=True) == [UP] * 50
    assert feed(standing, *[WRONG] * 3, heard=True) == [UP, UP, DOWN], "a wrong answer is one"


def test_flapping_stays_out_longer_each_time() -> None:
    rules = Rules(3, 2, 600.0)
    standing, needed, now = Standing(), [], 0.0
    for _ in range(7):
        while standing.verdict != DOWN:
            now += 1
            standing.take(SILENT, rules, now)
        answers = 0
        while standing.verdict == DOWN:
            now += 1
            answers += 1
            standing.take(GOOD, rules, now)
        needed.append(answers)
    assert needed == [2, 4, 8, 16, 32, 32, 32]
    now += 1000
    for _ in range(3):
        standing.take(SILENT, rules, now)
    assert standing.needed(rules, now) == 2, "long ago is forgotten"


@given(st.integers(1, 5), st.integers(1, 5), st.lists(st.sampled_from([GOOD, WRONG, SILENT, REFUSED]), max_size=60))
def test_as_a_plain_reading_of_the_rule(fall: int, rise: int, results: list[Result]) -> None:
    standing, rules = Standing(), Rules(fall, rise, 0.0)
    verdict, row = UNKNOWN, 0           # row: how many of the last results speak for a change
    for now, result in enumerate(results):
        against = not result.good if verdict != DOWN else result.good
        row = row + 1 if against else 0
        if verdict == UNKNOWN and result.good:
            verdict = UP
        elif verdict != DOWN and row == fall:
            verdict, row = DOWN, 0
        elif verdict == DOWN and row == rise:
            verdict, row = UP, 0
        change = standing.take(result, rules, float(now))
        assert standing.verdict == verdict
        assert (change is not None) == (standing.since == now and change is not None)
        assert standing.troubled == (verdict != DOWN and not result.good)


def down(severity: Severity, last_good: float | None = None) -> Standing:
    return Standing(DOWN, severity=severity, last_good=last_good)


def test_the_least_bad_stay() -> None:
    stale, wrong, dead = down(Severity.STALE), down(Severity.WRONG), down(Severity.DEAD, 5.0)
    up = Standing(UP)
    assert spared({0: up, 1: dead}, 1) == set()
    assert spared({0: dead, 1: stale, 2: wrong}, 1) == {1}
    assert spared({0: up, 1: dead, 2: wrong}, 2) == {2}
    assert spared({0: dead, 1: down(Severity.DEAD, 9.0), 2: up}, 2) == {1}, "who answered last"
    assert spared({0: wrong, 1: wrong, 2: dead}, 1) == {0, 1}, "our own mistake, more likely"
    assert spared({0: dead}, 5) == {0}
    assert spared({}, 1) == set()


@given(st.lists(st.sampled_from([UP, UNKNOWN, Severity.STALE, Severity.WRONG, Severity.DEAD]), max_size=8),
       st.integers(1, 9))
def test_never_fewer_than_asked_for(what: list[str | Severity], least: int) -> None:
    pool = {number: down(one) if isinstance(one, Severity) else Standing(one) for number, one in enumerate(what)}
    kept = spared(pool, least)
    alive = [number for number, one in pool.items() if one.verdict != DOWN]
    assert len(alive) + len(kept) >= min(least, len(pool))
    worst = max((pool[number].severity for number in kept), default=Severity.NONE)
    left = [one.severity for number, one in pool.items() if number not in kept and one.verdict == DOWN]
    assert all(worst <= severity for severity in left)
    assert not kept or len(alive) < least
