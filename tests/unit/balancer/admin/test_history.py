"""The last hour and the rates: pure, from views as the table gives them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.admin.history import LOOKS, MOST_POINTS, STEP, History, quantile
from balancer.table.table import LATENCY_BOUNDS, Row
from tests.helpers.table import Table

BUCKETS = len(LATENCY_BOUNDS) + 1
BEGIN = 1.8e9


@pytest.fixture
def table() -> Iterator[Table]:
    with Table({"dns": ["a", "b"]}) as made:
        yield made


class Clock:
    """Feeds a history with what a table says, step by step."""

    def __init__(self, table: Table, history: History | None = None) -> None:
        self.table, self.history, self.now = table, history or History(), 1000.0
        self.row = Row(table.row_fds[1], True)

    def count(self, slot: int, queries: int, bucket: int = 2, **more: Any) -> None:
        """Queries to a server and as many answers."""
        latency = [0] * BUCKETS
        latency[bucket] = queries
        self.row.add_server(0, slot, {"queries": queries, "answers": {"NOERROR": queries}, "latency": latency, **more})
        self.row.add_service(0, {"queries": queries, "answers": queries})

    def look(self, seconds: float = STEP, live: Any = ()) -> None:
        self.now += seconds
        self.history.look(self.table.view.services(), live, self.now, BEGIN + self.now)


def test_rates(table: Table) -> None:
    clock = Clock(table)
    clock.look()
    assert clock.history.service("dns")[0].queries == 0, "one look shows nothing"
    for _ in range(30):
        clock.count(0, 100)
        clock.count(1, 50, bucket=4, resends=5)
        clock.look()
    now, counts = clock.history.service("dns")
    assert (now.queries, now.unanswered, counts["queries"]) == (30, 0, 30)
    a, b = (clock.history.server("dns", name, f"192.0.2.1:{slot}") for slot, name in ((1, "a"), (2, "b")))
    assert (a.queries, a.counts["NOERROR"], a.counts["resends"]) == (20, 20, 0)
    assert (b.queries, b.counts["queries"], b.counts["resends"]) == (10, 10, 1)
    assert a.p50 is not None
    assert LATENCY_BOUNDS[1] < a.p50 < LATENCY_BOUNDS[2]
    assert b.p99 is not None
    assert LATENCY_BOUNDS[3] < b.p99 <= LATENCY_BOUNDS[4]
    assert now.p50 == LATENCY_BOUNDS[1] + (LATENCY_BOUNDS[2] - LATENCY_BOUNDS[1]) * 0.75


def test_what_nobody_should_answer_is_not_missed(table: Table) -> None:
    clock = Clock(table)
    clock.look()
    clock.row.add_service(0, {"queries": 100, "answers": 40, "timeouts": 10,
                              "dropped": {"short": 30, "not_admitted": 10, "no_server": 10}})
    clock.look()
    now, counts = clock.history.service("dns")
    assert now.unanswered == 20 / STEP
    assert (counts["short"], counts["timeouts"]) == (30 / STEP, 10 / STEP)


def test_the_hour_has_a_point_per_step_and_no_more(table: Table) -> None:
    clock = Clock(table)
    for _ in range(MOST_POINTS + 50):
        clock.count(0, 10)
        clock.look()
        clock.look(1.0)
        clock.now -= 1.0
    (hour,) = clock.history.hour()
    assert {len(column) for name, column in hour.items() if name != "name"} == {MOST_POINTS}
    assert hour["queries"] == [10 / STEP] * MOST_POINTS
    assert hour["time"] == sorted(hour["time"])
    assert clock.history.last("dns") == (hour["time"][-1], 2.0, 0.0, hour["p50"][-1], hour["p99"][-1])


def test_memory_is_bounded(table: Table) -> None:
    clock = Clock(table)
    for _ in range(3 * LOOKS):
        clock.look()
    assert len(clock.history._looks) == LOOKS


def test_a_counter_that_begins_anew(table: Table) -> None:
    clock = Clock(table)
    clock.count(0, 1000)
    clock.look()
    clock.row.clear_server(0, 0)
    clock.count(0, 10)
    clock.look()
    assert clock.history.server("dns", "a", "192.0.2.1:1").queries == 10 / STEP


def test_a_server_that_comes_and_goes(table: Table) -> None:
    clock = Clock(table)
    for _ in range(4):
        clock.look()
    table.config.add_server(0, 2, "c", "192.0.2.1:3", 1)
    clock.look()
    assert clock.history.server("dns", "c", "192.0.2.1:3").queries == 0
    clock.count(2, 100)
    clock.look()
    assert clock.history.server("dns", "c", "192.0.2.1:3").queries > 0
    table.config.remove_server(0, 2)
    table.config.free_server(0, 2)
    clock.look()
    assert len(clock.history._states) == 2


def test_since_when(table: Table) -> None:
    """The time of the change as it was told; else when it was seen, never before another state was seen."""
    clock = Clock(table)
    clock.look()
    first = BEGIN + clock.now
    assert clock.history.since("dns", "a", "192.0.2.1:1") == first
    clock.look()
    assert clock.history.since("dns", "a", "192.0.2.1:1") == first
    table.config.set_ordered(0, 0, "drained", 0)
    change = {"service": "dns", "server": "a", "time": BEGIN + clock.now + 2}
    clock.look(live=[change])
    assert clock.history.since("dns", "a", "192.0.2.1:1") == BEGIN + clock.now - 3
    table.config.set_ordered(0, 0, "auto", 0)
    clock.look()
    assert clock.history.since("dns", "a", "192.0.2.1:1") == BEGIN + clock.now
    assert clock.history.since("dns", "b", "192.0.2.1:2") == first


def test_a_successor_goes_on(table: Table) -> None:
    clock = Clock(table)
    for _ in range(5):
        clock.count(0, 10)
        clock.look()
    kept = json.loads(json.dumps(clock.history.export()))
    other = Clock(table, History())
    other.now = clock.now
    other.history.restore(kept)
    other.look(1.0)
    other.count(0, 20)
    other.look()
    (hour,) = other.history.hour()
    assert hour["queries"] == [2.0] * 4 + [4.0]
    assert other.history.since("dns", "a", "192.0.2.1:1") == clock.history.since("dns", "a", "192.0.2.1:1")
    History().restore({**kept, "format": 99})
    History().restore({})


@given(st.lists(st.integers(0, 1000), min_size=BUCKETS, max_size=BUCKETS), st.floats(0.001, 1))
def test_quantiles_lie_in_their_bucket(buckets: list[int], part: float) -> None:
    found, total, below = quantile(buckets, part), sum(buckets), 0
    if not total:
        assert found is None
        return
    assert found is not None
    bounds = [0.0, *LATENCY_BOUNDS, LATENCY_BOUNDS[-1]]
    for place, count in enumerate(buckets):
        if count and below + count >= part * total - 1e-6:
            assert bounds[place] <= found <= bounds[place + 1]
            return
        below += count


@given(st.lists(st.integers(0, 1000), min_size=BUCKETS, max_size=BUCKETS))
def test_quantiles_grow(buckets: list[int]) -> None:
    found = [quantile(buckets, part / 100) for part in range(1, 101)]
    known = [each for each in found if each is not None]
    assert known == sorted(known)
