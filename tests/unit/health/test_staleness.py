"""Serials (RFC 1982) and who is behind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from health.serial import HALF, distance, is_behind
from health.staleness import BEHIND, CURRENT, STALE, Copy

SERIAL = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(("served", "master", "behind"), [
    (1, 2, True), (2, 1, False), (5, 5, False), (2**32 - 1, 0, True), (0, 2**32 - 1, False),
    (2024010101, 2024010105, True), (0, HALF - 1, True), (0, HALF, False), (HALF, 0, False), (100, HALF + 100, False),
])
def test_order(served: int, master: int, behind: bool) -> None:
    assert is_behind(served, master) is behind


@given(SERIAL, st.integers(1, HALF - 1))
def test_adding_goes_ahead(serial: int, step: int) -> None:
    """RFC 1982 §3.1: an addition of less than 2^31 is ahead, whatever wraps."""
    ahead = (serial + step) % 2**32
    assert distance(serial, ahead) == step and distance(ahead, serial) == -step
    assert is_behind(serial, ahead) and not is_behind(ahead, serial)


def states(copy: Copy, *served: tuple[float, int, int | None]) -> list[str]:
    """Its state after each (time, serial, master's serial)."""
    seen = []
    for now, serial, master in served:
        copy.compare(serial, master, 300.0, now)
        seen.append(copy.state)
    return seen


def test_behind_then_stale_then_current() -> None:
    copy = Copy()
    assert copy.compare(5, 5, 300.0, 0.0) is None
    move = copy.compare(5, 6, 300.0, 10.0)
    assert move is not None and (move.before, move.after) == (CURRENT, BEHIND)
    assert states(copy, (11.0, 5, 6), (309.9, 5, 6), (310.0, 5, 7)) == [BEHIND, BEHIND, STALE]
    move = copy.compare(7, 7, 300.0, 320.0)
    assert move is not None and (move.before, move.after, move.lasted) == (STALE, CURRENT, 300.0)


def test_at_once_with_no_patience() -> None:
    move = Copy().compare(5, 6, 0.0, 0.0)
    assert move is not None and move.after == STALE


def test_a_master_that_cannot_be_asked_proves_nothing() -> None:
    copy = Copy()
    assert states(copy, (0.0, 5, None), (1000.0, 5, None)) == [CURRENT, CURRENT]
    assert states(copy, (1001.0, 5, 6), (1100.0, 5, None), (2000.0, 5, None)) == [BEHIND] * 3
    assert states(copy, (2001.0, 5, 6), (2299.0, 5, 6), (2302.0, 5, 6)) == [BEHIND, BEHIND, STALE], "time did not count"


def test_ahead_of_the_master_is_not_behind() -> None:
    assert states(Copy(), (0.0, 9, 6)) == [CURRENT]
