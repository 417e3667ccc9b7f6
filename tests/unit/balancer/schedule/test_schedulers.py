"""Every scheduler makes the choices its published rule makes, whatever the servers, weights and load."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.schedule import SCHEDULERS, create
from tests.unit.balancer.schedule.oracle import (
    LeastOracle,
    RoundRobinOracle,
    SourceHashOracle,
    WeightedRoundRobinOracle,
)

WEIGHTS = st.one_of(st.integers(0, 5), st.integers(0, 65535))
SERVERS = st.dictionaries(st.integers(0, 255), WEIGHTS, max_size=12).map(lambda d: sorted(d.items()))
# Each step: pick and keep in flight (True) or answer one that is in flight (False), and whether to exclude a server.
STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=120)


def build(name, servers):
    scheduler = create(name)
    scheduler.rebuild([(slot, weight) for slot, weight in servers if weight])
    return scheduler


def oracle(name, servers):
    if name in ("wlc", "lc"):
        return LeastOracle(servers, weighted=name == "wlc")
    return RoundRobinOracle(servers) if name == "rr" else WeightedRoundRobinOracle(servers)


@pytest.mark.parametrize("name", ["wlc", "lc", "rr"])
@given(servers=SERVERS, steps=STEPS)
def test_choices_equal_the_oracle(name, servers, steps):
    scheduler, rule = build(name, servers), oracle(name, servers)
    flying: list[int] = []
    for send, excluded in steps:
        if send or not flying:
            exclude = servers[excluded][0] if excluded < len(servers) and not send else -1
            load = Counter(flying)
            expected = rule.pick(load, exclude if exclude >= 0 else None)
            assert scheduler.choose(0, exclude) == expected
            if expected is not None:
                scheduler.note_claim(expected)
                flying.append(expected)
        else:
            scheduler.note_release(flying.pop(0))


@given(servers=SERVERS, picks=st.integers(1, 300))
@settings(deadline=None)
def test_wrr_equals_the_oracle(servers, picks):
    # The kernel's level starts at max - gcd + 1 and the pseudo-code's at max: the same servers reach both.
    scheduler, rule = build("wrr", servers), WeightedRoundRobinOracle(servers)
    for _ in range(picks):
        assert scheduler.choose() == rule.pick({})


@given(servers=SERVERS, keys=st.lists(st.integers(0, 2**32 - 1), max_size=50), excluded=st.integers(0, 12))
@settings(deadline=None)
def test_sh_equals_the_oracle(servers, keys, excluded):
    scheduler, rule = build("sh", servers), SourceHashOracle(servers)
    exclude = servers[excluded][0] if excluded < len(servers) else None
    for key in keys:
        assert scheduler.choose(key, -1 if exclude is None else exclude) == rule.pick(key, exclude)


@pytest.mark.parametrize("name", ["wlc", "wrr"])
@given(weights=st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_idle_servers_share_exactly_by_weight(name, weights):
    scheduler = build(name, list(enumerate(weights)))
    total = sum(weights)
    picks = Counter(scheduler.choose() for _ in range(total * 20))
    for slot, weight in enumerate(weights):
        assert abs(picks[slot] - weight * 20) <= 1, picks


def test_idle_turns_are_interleaved_not_in_blocks():
    scheduler = build("wlc", [(0, 1), (1, 2), (2, 3)])
    order = [scheduler.choose() for _ in range(600)]
    longest = max(len(run) for run in "".join(map(str, order)).replace("0", " ").replace("1", " ").split())
    assert longest <= 2


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_no_candidate_means_no_choice(name):
    scheduler = build(name, [(3, 0)])
    assert scheduler.choose(7) is None
    scheduler = build(name, [(3, 5)])
    assert scheduler.choose(7) == 3
    assert scheduler.choose(7, 3) is None


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_drained_server_gets_nothing_and_keeps_its_load(name):
    scheduler = build(name, [(0, 1), (1, 1)])
    for _ in range(3):
        scheduler.note_claim(1)
    scheduler.rebuild([(0, 1)])
    assert {scheduler.choose(random.getrandbits(32)) for _ in range(50)} == {0}
    scheduler.note_release(1)
    scheduler.rebuild([(0, 1), (1, 1)])
    if name in ("wlc", "lc"):               # two still in flight on 1: the next two go to 0
        assert scheduler.choose() == 0


def test_returning_server_is_not_flooded_by_missed_turns():
    scheduler = build("wlc", [(0, 1), (1, 1)])
    scheduler.rebuild([(0, 1)])
    for _ in range(1000):
        scheduler.choose()
    scheduler.rebuild([(0, 1), (1, 1)])
    picks = [scheduler.choose() for _ in range(10)]
    assert picks.count(1) in (5, 6)


def test_wlc_counts_what_other_workers_have_in_flight():
    scheduler = build("wlc", [(0, 1), (1, 1)])
    scheduler.note_others(0, 10)
    picks = []
    for _ in range(10):
        picks.append(scheduler.choose())
        scheduler.note_claim(picks[-1])
    assert picks == [1] * 10
    scheduler.note_others(0, 0)
    assert scheduler.choose() == 0


@pytest.mark.parametrize("bad", [[(256, 1)], [(-1, 1)], [(0, 0)], [(0, 65535 * 64 + 1)], [(0, 1), (0, 1)]])
def test_impossible_lists_are_refused(bad):
    with pytest.raises(ValueError, match="server slot"):
        create("wlc").rebuild(bad)
