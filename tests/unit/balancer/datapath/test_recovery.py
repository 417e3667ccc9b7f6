"""How fast waiting queries go out when a server has returned: never more at once than it takes, and all in the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.pure import AT_ONCE, LOST_AFTER, MILLISECOND, ROUNDS, Recovery, takes

STEP = MILLISECOND // 4
BACK = 10_000 * MILLISECOND             # when the server returns


class Drill:
    """A service whose queries came one each 200 us, and a server that answers, or loses, each that goes out."""

    def __init__(self, queries: int, srtt: int, delay: int, lost: Callable[[int, int], bool]) -> None:
        self.recovery = Recovery(srtt, BACK)
        queue = [BACK - 200_000 * (queries - number) for number in range(queries)]
        self.pending = set(queue)
        self.sent: list[tuple[int, int, int]] = []      # when, how many, how many more the window allowed
        self.tries: dict[int, int] = {}
        on_way: deque[tuple[int, int]] = deque()
        now, place, rounds = BACK, 0, ROUNDS
        while self.recovery.rounds and now < BACK + 60_000 * MILLISECOND:
            now += STEP
            while on_way and on_way[0][0] <= now:
                _, one = on_way.popleft()
                if one in self.pending:
                    self.pending.remove(one)
                    self.recovery.answer(one)
            room = self.recovery.room(now)
            if room == 0:
                continue
            window = self.recovery.window - self.recovery.outstanding
            if self.recovery.rounds != rounds:
                place, rounds = 0, self.recovery.rounds
            going = []
            while place < queries and len(going) < room and self.recovery.due(queue[place]):
                going += [queue[place]] if queue[place] in self.pending else []
                place += 1
            self.recovery.send(going, now)
            if going:
                self.sent.append((now, len(going), window))
            for one in going:
                self.tries[one] = self.tries.get(one, 0) + 1
                if not lost(one, self.tries[one]):
                    on_way.append((now + delay, one))
        self.ended = self.recovery.rounds == 0


@given(st.integers(0, 1000), st.sampled_from([0, 1, 20, 80]), st.sampled_from([0, 1, 5, 30]), st.integers(0, 2**32))
def test_all_go_out_within_the_window(queries: int, srtt: int, delay: int, seed: int) -> None:
    """Each try of each query may be lost, all but the last: then every one of them is answered."""
    drill = Drill(queries, srtt * MILLISECOND, delay * MILLISECOND,
                  lambda one, times: times < ROUNDS and (one * 2654435761 ^ seed * times) % 97 < 20)
    assert drill.ended and not drill.pending
    assert all(count <= min(AT_ONCE, window) for _, count, window in drill.sent)
    assert all(later - earlier >= MILLISECOND // 2 for (earlier, _, _), (later, _, _) in pairwise(drill.sent))


def test_a_server_that_answers_nothing_more_gets_one_window_each_time() -> None:
    """What it had taken is held to be lost after LOST_AFTER; the rounds end, though nothing is ever answered."""
    drill = Drill(5000, 0, 0, lambda one, times: True)
    for start in range(0, drill.sent[-1][0] - BACK, LOST_AFTER):
        went = sum(count for at, count, _ in drill.sent if start <= at - BACK < start + LOST_AFTER)
        assert went <= 2 * takes(0), "one window, and what is left of the one before"
    assert drill.ended and set(drill.tries.values()) == {ROUNDS}


def test_the_window_is_what_is_on_the_way() -> None:
    assert takes(0) < takes(20 * MILLISECOND) < takes(400 * MILLISECOND)
    for distance in (0, 20 * MILLISECOND):
        drill = Drill(5000, distance, distance, lambda one, times: False)
        assert max(window for _, _, window in drill.sent) == takes(distance) == drill.recovery.window


def test_the_first_ones_are_paced() -> None:
    """Before an answer tells how fast the server is, no more go out than it may be thought to answer."""
    drill = Drill(5000, 20 * MILLISECOND, 20 * MILLISECOND, lambda one, times: False)
    unclocked = [count for at, count, _ in drill.sent if at < BACK + 20 * MILLISECOND]
    assert max(unclocked) == AT_ONCE // 2 < max(count for _, count, _ in drill.sent) == AT_ONCE


def test_what_is_lost_narrows_it_again() -> None:
    recovery = Recovery(20 * MILLISECOND, BACK)
    recovery.send([BACK - 2, BACK - 1], BACK)
    recovery.answer(BACK - 2)
    assert recovery.window == takes(20 * MILLISECOND)
    recovery.room(BACK + LOST_AFTER)
    assert recovery.outstanding == 1, "it is not back yet"
    recovery.room(BACK + LOST_AFTER + 20 * MILLISECOND)
    assert (recovery.window, recovery.outstanding) == (takes(0), 0)
    recovery.send([BACK - 1], BACK + LOST_AFTER + 20 * MILLISECOND)
    recovery.answer(BACK - 1)
    assert recovery.window == takes(0) + 1


def test_an_answer_to_a_later_query_makes_no_room() -> None:
    recovery = Recovery(0, BACK)
    assert recovery.room(BACK) > 0
    recovery.send([BACK - 2, BACK - 1], BACK)
    recovery.answer(BACK + 1)
    assert recovery.outstanding == 2
    recovery.answer(BACK - 1)
    assert recovery.outstanding == 1
