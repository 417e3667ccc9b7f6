"""Whom a worker trusts by its own traffic, and how many queries it may send twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.helpers.pure import MILLISECOND, RESCUES, SUSPECTED_FOR, Budget, Trust

BEGIN = 1_000_000 * MILLISECOND
SUSPEND_AFTER = 200 * MILLISECOND


class Judged(RuleBasedStateMachine):
    """Any order of events, beside what must have been seen before a server is suspected."""

    def __init__(self) -> None:
        super().__init__()
        self.trust, self.now = Trust(), BEGIN
        self.refusals = self.probes = 0     # since its last answer
        self.rescued: list[int] = []
        self.asked: int | None = None

    @rule(milliseconds=st.sampled_from([1, 5, 29, 31, 120, 201, 251, 1001]))
    def time_goes_on(self, milliseconds: int) -> None:
        self.now += milliseconds * MILLISECOND
        self.trust.judge(self.now, SUSPEND_AFTER)

    @rule()
    def sent(self) -> None:
        self.trust.on_sent(self.now)
        self.asked = self.now if self.asked is None else self.asked

    @rule(client=st.integers(1, 3))
    def rescued_by_another(self, client: int) -> None:
        self.trust.on_rescue(client)
        self.rescued.append(client)

    @rule()
    def refused(self) -> None:
        self.trust.on_refusal(self.now)
        self.refusals += 1

    @rule()
    def doubled(self) -> None:
        untrusted = self.trust.suspected or self.trust.doubtful
        if self.trust.double(self.now):
            assert untrusted
            self.probes += 1
            self.asked = self.now if self.asked is None else self.asked

    @rule()
    def answered(self) -> None:
        untrusted = self.trust.suspected or self.trust.doubtful
        assert self.trust.on_answer(self.now) == untrusted
        assert not untrusted or self.trust.returned(self.now)
        self.refusals = self.probes = 0
        self.rescued, self.asked = [], None
        assert not self.trust.suspected and not self.trust.doubtful

    @invariant()
    def nobody_is_suspected_without_proof(self) -> None:
        if not self.trust.suspected:
            return
        silent = (len(self.rescued) >= RESCUES and len(set(self.rescued)) > 1 and self.asked is not None
                  and self.now - self.asked >= SUSPEND_AFTER)
        assert self.refusals >= 2 or (self.refusals == 1 and self.probes) or silent

    @precondition(lambda self: self.trust.suspected)
    @rule()
    def forgotten_when_nothing_is_asked(self) -> None:
        for _ in range(2):
            self.now += SUSPECTED_FOR
            self.trust.judge(self.now, SUSPEND_AFTER)
        assert not self.trust.suspected


TestJudged = Judged.TestCase


def test_one_refusal_alone_makes_it_doubtful_only() -> None:
    trust = Trust()
    assert trust.on_refusal(BEGIN) and trust.doubtful and not trust.suspected
    assert trust.judge(BEGIN + trust.retry_after(), SUSPEND_AFTER)
    assert not trust.doubtful and not trust.suspected, "nothing was asked meanwhile"


@pytest.mark.parametrize("answers", [True, False])
def test_the_probe_decides(answers: bool) -> None:
    trust = Trust()
    trust.on_refusal(BEGIN)
    assert trust.double(BEGIN + 1) and not trust.double(BEGIN + 2), "one probe"
    if answers:
        assert trust.on_answer(BEGIN + 3)
    trust.judge(BEGIN + trust.retry_after() + 1, SUSPEND_AFTER)
    assert trust.suspected is not answers and not trust.doubtful


def test_a_second_refusal_makes_it_suspected() -> None:
    trust = Trust()
    trust.on_refusal(BEGIN)
    assert trust.on_refusal(BEGIN + 1) and trust.suspected
    assert trust.double(BEGIN + 200 * MILLISECOND), "a trickle goes on"


@pytest.mark.parametrize(("rescues", "clients", "after", "suspected"), [
    (RESCUES, 2, SUSPEND_AFTER, True), (RESCUES - 1, 2, SUSPEND_AFTER, False), (RESCUES, 1, SUSPEND_AFTER, False),
    (RESCUES, 2, SUSPEND_AFTER - 1, False)])
def test_silence(rescues: int, clients: int, after: int, suspected: bool) -> None:
    trust = Trust()
    trust.on_sent(BEGIN)
    for number in range(rescues):
        trust.on_rescue(number % clients)
    assert trust.judge(BEGIN + after, SUSPEND_AFTER) is suspected is trust.suspected


def test_a_suspicion_lasts_while_the_server_is_asked() -> None:
    trust, now = Trust(), BEGIN
    trust.on_refusal(now)
    trust.on_refusal(now)
    for _ in range(40):
        now += 100 * MILLISECOND
        trust.on_sent(now)
        trust.judge(now, SUSPEND_AFTER)
        assert trust.suspected


@given(st.lists(st.integers(1, 10**10), min_size=1, max_size=50))
def test_the_time_that_is_waited_stays_within_its_bounds(samples: list[int]) -> None:
    trust = Trust()
    assert trust.retry_after() == 250 * MILLISECOND
    for each in samples:
        trust.sample(each)
    assert min(samples) // 2 <= trust.srtt <= max(samples)
    assert 30 * MILLISECOND <= trust.retry_after() <= 250 * MILLISECOND
    assert trust.retry_after(7) == 7


def test_the_smoothed_round_trip_time_is_that_of_rfc_6298() -> None:
    trust = Trust()
    trust.sample(40 * MILLISECOND)
    assert trust.srtt == 40 * MILLISECOND and trust.retry_after() == (40 + 4 * 20) * MILLISECOND
    trust.sample(48 * MILLISECOND)          # rttvar 3/4 * 20 + 1/4 * 8, srtt 7/8 * 40 + 1/8 * 48
    assert trust.srtt == 41 * MILLISECOND and trust.retry_after() == (41 + 4 * 17) * MILLISECOND


@given(st.lists(st.tuples(st.sampled_from("qqqs"), st.integers(0, 20 * MILLISECOND)), max_size=300))
def test_never_more_than_the_budget(events: list[tuple[str, int]]) -> None:
    budget, now, queries, spent = Budget(0.1, 100, BEGIN), BEGIN, 0, 0
    for kind, later in events:
        now += later
        if kind == "q":
            budget.on_query()
            queries += 1
        elif budget.spend(now):
            spent += 1
    assert spent <= 0.1 * queries + 100 * (now - BEGIN) / 1e9 + 1e-6


def test_a_long_rest_does_not_save_up_a_storm() -> None:
    budget = Budget(0.1, 100, BEGIN)
    later = BEGIN + 3600 * 1000 * MILLISECOND
    assert sum(budget.spend(later) for _ in range(5000)) == 100 * 11
