"""The one-shot client without sockets: when a query is due, which query an id means, what the result says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.oneshot.plan import LONGEST_BURST, Pace, Plan, turn_of
from benchmarks.oneshot.record import STALL, Record, Result

MS = 1_000_000
SECOND = 1_000_000_000


def plan(rate: float = 1000, seconds: float = 1, **kwargs: float) -> Plan:
    return Plan(("127.0.0.1", 53), rate, seconds, [b""], **kwargs)  # type: ignore[arg-type]


def test_a_steady_pace() -> None:
    pace = Pace(plan(10_000, 0.1), start=5 * SECOND)
    sent = []
    for tick in range(101):
        pace.sent += (due := pace.due(5 * SECOND + tick * MS))
        sent.append(due)
    assert sent == [1, *[10] * 99, 9]
    assert pace.over(5 * SECOND + 100 * MS)


def test_after_a_stall_it_catches_up_at_double_rate() -> None:
    pace = Pace(plan(10_000, 2), start=0)
    for tick in range(100):
        pace.sent += pace.due(tick * MS)
    pace.sent += (burst := pace.due(1100 * MS))
    assert burst == 10_000 * LONGEST_BURST
    ticks = [pace.due(1101 * MS)]
    pace.sent += ticks[0]
    for tick in range(1102, 3000):
        pace.sent += (due := pace.due(tick * MS))
        ticks.append(due)
    assert set(ticks[:800]) == {21}
    assert pace.sent == 20_000
    assert ticks[-1] == 0


def test_it_does_not_go_on_for_ever() -> None:
    pace = Pace(plan(1000, 2), start=0)
    assert not pace.over(4 * SECOND)
    assert pace.over(6 * SECOND)


@given(st.lists(st.integers(0, 300 * MS), max_size=200), st.integers(1, 20_000))
def test_never_ahead_of_the_clock_and_never_too_many(waits: list[int], rate: int) -> None:
    pace, now = Pace(plan(rate, 1), start=0), 0
    for wait in waits:
        now += wait
        pace.sent += pace.due(now)
        assert pace.sent <= now * rate / SECOND + 1
        assert pace.sent <= rate
    for _ in range(4000):
        now += MS
        pace.sent += pace.due(now)
    assert pace.sent == rate


@given(st.integers(0, 0xFFFF), st.integers(0, 300_000), st.integers(0, 0xFFFF))
def test_an_id_means_the_latest_query_that_had_it(first: int, last: int, back: int) -> None:
    turn = last - back
    assert turn_of((first + turn) & 0xFFFF, first, last) == turn


def record_of(*taken: float | None) -> Record:
    """Queries sent each 100 ms from second 1 on, answered after so many seconds."""
    record = Record()
    for number, seconds in enumerate(taken):
        assert record.send(SECOND + number * 100 * MS) == number
        if seconds is not None:
            record.answer(number, record.sent[number] + int(seconds * SECOND), 0)
    return record


def result_of(record: Record, rate: float = 10, seconds: float | None = None, **counts: int) -> Result:
    total = len(record.sent)
    return record.result(plan(rate, (total if seconds is None else seconds * rate) / rate), SECOND, counts, 0.5, [])


def test_lost_late_and_slow() -> None:
    result = result_of(record_of(0.1, None, 0.3, 2.5, 0.2, 2.0), refused=3)
    assert (result.sent, result.answered, result.late, result.refused) == (6, 4, 1, 3)
    assert result.lost == pytest.approx([0.1, 0.3])
    assert result.latest == result.latest_unstalled == pytest.approx(2.0)
    assert [slow.taken for slow in result.slowest] == pytest.approx([2.0, 0.3, 0.2, 0.1])
    assert result.slowest[0].sent == pytest.approx(0.5)
    assert [result.p50, result.p99] == pytest.approx([0.3, 2.0])
    assert result.rcodes == {"NOERROR": 4 + 1}
    assert result.start == 1.0
    assert result.cpu_us == pytest.approx(0.5e6 / 6)
    assert result.doubt == []


def test_answers_too_many() -> None:
    record = record_of(0.1)
    record.answer(0, 5 * SECOND, 2)
    result = result_of(record)
    assert (result.answered, result.twice, result.rcodes) == (1, 1, {"NOERROR": 1})


def test_rcodes() -> None:
    record = record_of(None, None, None)
    for number, code in enumerate((2, 5, 9)):
        record.answer(number, 2 * SECOND, code)
    assert result_of(record).rcodes == {"SERVFAIL": 1, "REFUSED": 1, "9": 1}


def test_nothing_answered() -> None:
    result = result_of(record_of(None, None))
    assert (result.p50, result.p99, result.latest, result.latest_unstalled) == (None, None, 0, 0)
    assert len(result.lost) == 2


def test_its_own_stall_is_not_the_balancers() -> None:
    """Sent at 1.0, 1.1 and 1.2; it stands still from 1.05 to 1.55."""
    record = record_of(0.6, 0.5, 0.05)
    record.wake(SECOND + 50 * MS, SECOND + 50 * MS + STALL + MS, MS)
    assert record.stalls == []
    record.wake(SECOND + 50 * MS, SECOND + 550 * MS, MS)
    result = result_of(record)
    assert result.stalls == [pytest.approx((0.05, 0.5))]
    assert result.latest == pytest.approx(0.6)
    assert [slow.stalled for slow in result.slowest] == pytest.approx([0.5, 0.45, 0.05])
    assert result.latest_unstalled == pytest.approx(0.1)


def test_falling_behind_is_told() -> None:
    record = record_of(0.1, 0.1, 0.1)
    assert result_of(record).doubt == []
    assert "10 instead of 11 per second" in result_of(record, rate=11).doubt[0]
    assert "sent 3 of 10" in result_of(record, seconds=1).doubt[0]
