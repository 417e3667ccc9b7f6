"""Every scheduler makes the choices its published rule makes, whatever the servers, weights and load."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest
from hypothesis import given
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


EVENTS = st.lists(st.one_of(
    st.tuples(st.just("pick"), st.integers(0, 40)),         # the number of a server to exclude, if there is one
    st.tuples(st.just("answer"), st.integers(0, 100)),
    st.tuples(st.just("others"), st.tuples(st.integers(0, 39), st.integers(0, 3))),
    st.tuples(st.just("weights"), st.lists(st.integers(0, 3), min_size=40, max_size=40)),
), max_size=80)


@pytest.mark.parametrize("name", ["wlc", "lc"])
@given(slots=st.sets(st.integers(0, 255), min_size=1, max_size=40), events=EVENTS)
def test_whatever_happens_in_between_choices_equal_the_oracle(name, slots, events):
    """Answers, the load of other workers and changed weights between the picks, over any number of servers."""
    slots = sorted(slots)
    scheduler, rule = build(name, [(slot, 1) for slot in slots]), oracle(name, [(slot, 1) for slot in slots])
    flying: list[int] = []
    others: Counter[int] = Counter()
    for event, value in events:
        if event == "pick":
            exclude = slots[value] if value < len(slots) else None
            expected = rule.pick(Counter(flying) + others, exclude)
            assert scheduler.choose(0, -1 if exclude is None else exclude) == expected
            if expected is not None:
                scheduler.note_claim(expected)
                flying.append(expected)
        elif event == "answer" and flying:
            scheduler.note_release(flying.pop(value % len(flying)))
        elif event == "others":
            slot = slots[value[0] % len(slots)]
            others[slot] = value[1]
            scheduler.note_others(slot, value[1])
        elif event == "weights":
            servers = list(zip(slots, value, strict=False))
            scheduler.rebuild([(slot, weight) for slot, weight in servers if weight])
            rule.change(servers, name == "wlc")


STRIDE, REBASE = 2**32, 2**23           # virtual time starts anew after so many turns of a server of weight 1


@pytest.mark.parametrize("before", [1, 50, 120])
def test_choices_equal_the_oracle_where_virtual_time_starts_anew(before):
    scheduler, rule = build("wlc", [(7, 1)]), LeastOracle([(7, 1)], weighted=True)
    scheduler.time_picks(REBASE - before, 0)
    rule.due[7], rule.now = (REBASE - before) * STRIDE, (REBASE - before - 1) * STRIDE
    servers = [(3, 2), (7, 1), (9, 3)]
    scheduler.rebuild(servers)
    rule.change(servers, True)
    for pick in range(400):
        expected = rule.pick({3: pick % 2, 7: 0, 9: pick % 2})
        assert scheduler.choose() == expected, f"pick {pick}"
        for slot in (3, 9):
            (scheduler.note_release if pick % 2 else scheduler.note_claim)(slot)


def test_server_that_took_no_turn_for_ages_is_not_forgotten():
    scheduler = build("wlc", [(0, 1)])
    scheduler.time_picks(3 * REBASE, 0)
    scheduler.rebuild([(0, 1), (1, 1)])
    picks = [scheduler.choose() for _ in range(10)]
    assert picks.count(1) in (5, 6)


@given(servers=SERVERS, picks=st.lists(st.one_of(st.just(20), st.integers(0, 12)), min_size=1, max_size=300))
def test_wrr_equals_the_oracle(servers, picks):
    # The kernel's level starts at max - gcd + 1 and the pseudo-code's at max: the same servers reach both.
    servers = [(slot, min(weight, 400)) for slot, weight in servers]        # the plain oracle walks every level
    scheduler, rule = build("wrr", servers), WeightedRoundRobinOracle(servers)
    for excluded in picks:
        exclude = servers[excluded][0] if excluded < len(servers) else None
        assert scheduler.choose(0, -1 if exclude is None else exclude) == rule.pick({}, exclude)


def test_wrr_finds_a_second_server_at_once_below_a_heavy_one():
    """65,535 levels that only the excluded server reaches, times 250 servers, would be felt (seconds, here)."""
    scheduler = build("wrr", [(0, 65535), *((slot, 1) for slot in range(1, 250))])
    start = time.process_time()
    for _ in range(500):
        assert scheduler.choose(0, 0) not in (None, 0)
        assert scheduler.choose() is not None
    assert time.process_time() - start < 2


@given(servers=SERVERS, keys=st.lists(st.integers(0, 2**32 - 1), max_size=50), excluded=st.integers(0, 12))
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
