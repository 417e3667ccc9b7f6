"""Connections per client: a dict says the same, however they come and go."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.datapath.counts import Counts

KEYS = st.tuples(st.sampled_from([4, 6]), st.integers(0, 40))


@settings(max_examples=200)
@given(st.lists(st.tuples(st.booleans(), KEYS), max_size=300))
def test_as_a_dict(steps: list[tuple[bool, tuple[int, int]]]) -> None:
    counts, oracle = Counts(), Counter[tuple[int, int]]()
    for arrives, key in steps:
        if arrives:
            oracle[key] += 1
            assert counts.note(*key) == oracle[key]
        else:
            counts.forget(*key)
            oracle[key] = max(0, oracle[key] - 1)
    oracle = +oracle
    assert len(counts) == len(oracle)
    for key, number in oracle.items():
        assert counts.note(*key) == number + 1


def test_many_clients_come_and_go() -> None:
    """It grows, and every place is found again after half of them left."""
    counts = Counts()
    for number in range(20_000):
        assert counts.note(4, number) == 1
    for number in range(0, 20_000, 2):
        counts.forget(4, number)
    assert len(counts) == 10_000
    for number in range(20_000):
        assert counts.note(4, number) == 1 + number % 2
