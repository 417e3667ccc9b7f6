"""When clients' queries give reason to ask a server at once."""

from __future__ import annotations

from balancer.table.view import Owed
from health.traffic import LATELY_NS, Doubt

START = 100.0
SEEN = int(START * 1e9) - 1_000_000


def owing(waits: bool = True, seen_ns: int = SEEN, refused_ns: int = 0) -> Owed:
    return Owed(waits, seen_ns, refused_ns)


def looks(doubt: Doubt, owed: Owed | None, seconds: float, start: float = START, usual: float = 0.0) -> list[bool]:
    """A look each 10 ms."""
    return [doubt.look(owed, usual, start + number / 100) for number in range(round(seconds * 100) + 1)]


def test_nobody_owes_anything() -> None:
    assert not any(looks(Doubt(), None, 1))


def test_a_refusal_is_reason_at_once_and_for_a_second() -> None:
    doubt, refused = Doubt(), int(START * 1e9)
    assert doubt.look(owing(waits=False, refused_ns=refused), 0.0, START)
    assert doubt.look(owing(waits=False, refused_ns=refused), 0.0, START + LATELY_NS / 1e9 - 0.01)
    assert not doubt.look(owing(waits=False, refused_ns=refused), 0.0, START + LATELY_NS / 1e9)


def test_silence_while_a_query_waits() -> None:
    seen = looks(Doubt(), owing(), 0.05)
    assert seen.index(True) in (2, 3) and all(seen[seen.index(True):]), "SILENT, as exactly as looks are"


def test_silence_counts_from_when_a_query_waited() -> None:
    """Its last answer may be long ago: nothing was asked since."""
    assert not Doubt().look(owing(seen_ns=1), 0.0, START)


def test_answers_between_are_no_silence() -> None:
    doubt = Doubt()
    assert not any(doubt.look(owing(seen_ns=SEEN + number), 0.0, START + number / 100) for number in range(100))


def test_a_query_that_came_and_went_starts_anew() -> None:
    doubt = Doubt()
    assert not doubt.look(owing(), 0.0, START)
    assert not doubt.look(None, 0.0, START + 0.01)
    assert not doubt.look(owing(), 0.0, START + 0.02)


def test_a_slow_server_is_waited_for() -> None:
    seen = looks(Doubt(), owing(), 0.2, usual=0.03)
    assert seen.index(True) in (12, 13), "four times its latency"
