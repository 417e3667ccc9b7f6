"""When who is probed: the worst case that is promised, and the list of who is due."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from health.schedule import JITTER, Due, Pace, first_probe, next_probe

PACE = Pace(1.0, 0.2)
CHANCE = st.floats(0, 1)


@given(CHANCE, st.floats(0, 3))
def test_jitter_only_ever_comes_early(chance: float, took: float) -> None:
    due = next_probe(PACE, 100.0, 100.0 + took, False, chance)
    assert due >= 100.0 + took
    assert took > 1 or 101.0 - JITTER - 1e-9 <= max(due, 101.0 - JITTER) <= 101.0 + 1e-9
    assert 50.0 <= first_probe(PACE, 50.0, chance) <= 51.0


def test_a_failure_is_followed_fast() -> None:
    assert next_probe(PACE, 100.0, 100.5, True, 0.7) == 100.7


@given(st.lists(CHANCE, min_size=1, max_size=5))
def test_found_within_the_promise(chances: list[float]) -> None:
    """Dead just after an answered probe: interval + 3 x timeout + 2 x fast_interval at the latest."""
    began = next_probe(PACE, 0.0, 0.001, False, chances[0])
    for failure in range(3):
        ended = began + 0.5
        began = next_probe(PACE, began, ended, True, chances[failure % len(chances)])
    assert ended <= 2.9 + 1e-9


@given(st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.floats(0, 100)))))
def test_due_as_a_dictionary(steps: list[tuple[int, float | None]]) -> None:
    due: Due[int] = Due()
    times: dict[int, float] = {}
    for key, time in steps:
        if time is None:
            due.drop(key)
            times.pop(key, None)
        else:
            due.set(key, time)
            times[key] = time
        assert due.next() == min(times.values(), default=None)
    taken = due.take(50.0)
    assert sorted(taken) == sorted(key for key, time in times.items() if time <= 50.0)
    assert [times[key] for key in taken] == sorted(times[key] for key in taken)
    assert due.take(50.0) == []
    assert sorted(due.take(100.0)) == sorted(key for key, time in times.items() if time > 50.0)
