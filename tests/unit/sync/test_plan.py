"""What changed, what is suspicious, and when to try again."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.manifest import EMPTY
from sync.plan import Lag, Pulls, changes, doubts, is_before, names, silent
from tests.unit.sync.makers import manifest

OLD = manifest(1, {"a": (1, 20), "b": (1, 20), "c": (1, 20), "d": (1, 20)})


def test_changes() -> None:
    new = manifest(2, {"a": (2, 20), "b": (1, 20), "c": (1, 20), "e": (1, 20)})
    found = changes(OLD, new)
    assert (found.added, found.changed, found.removed) == ((("", "e"),), (("", "a"),), (("", "d"),))
    assert found.conf and set(found.fetch) == {"named.conf", "zones/a", "zones/e"}
    assert set(found.load) == {("", "a"), ("", "e")}
    assert found.words() == "1 added (e), 1 changed (a), 1 removed (d)"
    assert not changes(OLD, OLD) and changes(OLD, OLD).words() == "nothing changed"


def test_content_counts_not_size_or_serial() -> None:
    """A same-size edit in the same second is a change, as is other content under the same serial."""
    new = manifest(2, dict.fromkeys("abcd", (1, 20)), salt="edited")
    assert len(changes(OLD, new).changed) == 4
    assert silent(OLD, new) == [("", name) for name in "abcd"]
    assert changes(EMPTY, OLD).load == tuple(OLD.zones)


zones = st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(st.integers(1, 3), st.just(20)))


@given(zones, zones)
def test_changes_lead_from_one_to_the_other(
    before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]
) -> None:
    old, new = manifest(1, before), manifest(2, after)
    found = changes(old, new)
    content = {key: old.files[zone.path].sha256 for key, zone in old.zones.items() if key not in found.removed}
    content |= {key: new.files[new.zones[key].path].sha256 for key in found.load}
    assert content == {key: new.files[zone.path].sha256 for key, zone in new.zones.items()}
    assert set(found.fetch) - {"named.conf"} == {new.zones[key].path for key in found.load}


@pytest.mark.parametrize(("after", "word"), [
    ({"a": (2, 20)}, "3 of 4 zones would vanish"),
    ({"a": (2, 3), "b": (1, 20), "c": (1, 20), "d": (1, 20)}, "a would lose most of its records (20 before, 3 now)"),
    ({"a": (2, -1), "b": (1, 20), "c": (1, 20), "d": (1, 20)}, "its records (2000 before, 100 now)"),
    ({"a": (0, 20), "b": (1, 20), "c": (1, 20), "d": (1, 20)}, "the serial has gone backwards: a"),
    ({"a": (2, 10), "b": (1, 20)}, ""),
    ({**dict.fromkeys("abcd", (1, 20)), "e": (1, 1)}, ""),
])
def test_doubts(after: dict[str, tuple[int, int]], word: str) -> None:
    found = doubts(OLD, manifest(2, after), 50)
    assert len(found) == bool(word)
    assert not word or word in found[0]


def test_small_zones_may_shrink_and_nothing_is_doubted_at_first() -> None:
    assert doubts(manifest(1, {"a": (1, 10)}), manifest(2, {"a": (2, 2)}), 50) == []
    assert doubts(EMPTY, OLD, 1) == []
    assert doubts(OLD, manifest(2, {}), 100) == []


@given(st.integers(0, 0xFFFFFFFF), st.integers(1, (1 << 31) - 1))
def test_serials_are_compared_as_rfc_1982_says(serial: int, step: int) -> None:
    later = (serial + step) & 0xFFFFFFFF
    assert is_before(serial, later) and not is_before(later, serial) and not is_before(serial, serial)


def test_many_names_are_told_as_a_number() -> None:
    keys = [("", f"z{number}") for number in range(7)]
    assert names(keys) == "z0, z1, z2, z3, z4, and 2 more"
    assert names([("inside", "a")]) == "a (view inside)"


def test_a_notify_of_something_new_is_obeyed_at_once() -> None:
    pulls = Pulls(60.0, 100.0)
    assert pulls.due == 100.0
    pulls.started(100.0)
    pulls.ended(False, 100.5)
    assert pulls.due == 160.0
    pulls.notified(True, 100.6)
    assert pulls.due == 100.6


def test_notifies_of_nothing_new_cost_one_pull_a_second() -> None:
    pulls, now, count = Pulls(60.0, 0.0), 0.0, 0
    while now < 10.0:
        pulls.notified(False, now)
        if pulls.due <= now:
            pulls.started(now)
            pulls.ended(False, now)
            count += 1
        now += 0.001
    assert 9 <= count <= 11


def test_failures_are_tried_again_more_and_more_seldom() -> None:
    pulls, tries = Pulls(60.0, 0.0), []
    while len(tries) < 10:
        tries.append(pulls.due)
        pulls.started(pulls.due)
        pulls.ended(True, tries[-1])
    gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert gaps == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    pulls.ended(False, tries[-1])
    pulls.started(1000.0)
    pulls.ended(True, 1000.0)
    assert pulls.due == 1001.0


def test_what_failed_for_good_waits_for_the_poll() -> None:
    pulls = Pulls(60.0, 0.0)
    pulls.started(0.0)
    pulls.ended(False, 0.1)
    assert pulls.due == 60.0


def test_lag_is_told_once_and_ends() -> None:
    lag = Lag()
    lag.heard(True, 10.0)
    assert lag.change(5.0, 14.0) == ""
    assert lag.change(5.0, 15.0) == "stale" and lag.change(5.0, 20.0) == ""
    assert lag.seconds(20.0) == 10.0
    lag.heard(False, 21.0)
    assert lag.change(5.0, 21.0) == "current" and lag.change(5.0, 22.0) == ""
    assert lag.seconds(30.0) == 0.0
    lag.heard(True, 30.0)
    lag.heard(False, 31.0)
    assert lag.change(5.0, 40.0) == ""
    fresh = Lag()
    fresh.heard(False, 0.0)
    assert fresh.change(5.0, 0.0) == "current" and fresh.change(5.0, 1.0) == ""
