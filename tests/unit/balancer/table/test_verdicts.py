"""The verdicts in shared memory: who may write, of whom they speak, when they count."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from balancer.errors import LayoutError
from balancer.table.table import ConfigTable, ServerEntry, allocate, config_size, read_only
from balancer.table.verdicts import DOWN, SPARED, UNKNOWN, UP, Found, Verdicts, verdicts_size
from balancer.table.view import serving_state, state_of

SECOND = 1_000_000_000
GOOD = Found(UP, 5, 4, 9, 700, "")
BAD = Found(DOWN, 8, 0, 9, 700, "tcp: connection refused")


@pytest.fixture
def pair() -> Iterator[tuple[Verdicts, Verdicts]]:
    """The writer's mapping and a reader's."""
    descriptor = allocate("test-verdicts", verdicts_size())
    view = read_only(descriptor)
    yield Verdicts(descriptor, True, True), Verdicts(view)
    os.close(descriptor)
    os.close(view)


def test_what_is_written_is_read(pair: tuple[Verdicts, Verdicts]) -> None:
    writer, reader = pair
    writer.beat(100 * SECOND)
    writer.write(63, 255, 7, 0, GOOD)
    writer.write(63, 255, 7, 1, BAD)
    assert reader.read(63, 255, 7, 100 * SECOND) == (GOOD, BAD)
    assert reader.heartbeat_ns == 100 * SECOND
    writer.write(63, 255, 7, 1, GOOD)
    assert reader.read(63, 255, 7, 100 * SECOND) == (GOOD, GOOD)


def test_another_server_in_the_slot_has_none(pair: tuple[Verdicts, Verdicts]) -> None:
    writer, reader = pair
    writer.beat(SECOND)
    writer.write(0, 0, 7, 0, BAD)
    assert reader.read(0, 0, 8, SECOND) == (Found(), Found())
    writer.write(0, 0, 8, 1, GOOD)
    assert reader.read(0, 0, 8, SECOND) == (Found(), GOOD), "what was said of the other is forgotten"
    assert reader.read(0, 0, 7, SECOND) == (Found(), Found())


def test_an_old_heartbeat_makes_all_unknown(pair: tuple[Verdicts, Verdicts]) -> None:
    writer, reader = pair
    writer.write(0, 0, 7, 0, BAD)
    assert reader.read(0, 0, 7, SECOND)[0].verdict == UNKNOWN, "nobody ever lived"
    writer.beat(100 * SECOND)
    assert reader.read(0, 0, 7, 110 * SECOND)[0] == BAD
    assert reader.read(0, 0, 7, 99 * SECOND)[0] == BAD, "clocks of two processors"
    old = reader.read(0, 0, 7, 110 * SECOND + 1)[0]
    assert (old.verdict, old.reason, old.probed_ns) == (UNKNOWN, BAD.reason, BAD.probed_ns)


def test_long_and_foreign_reasons(pair: tuple[Verdicts, Verdicts]) -> None:
    writer, reader = pair
    writer.beat(SECOND)
    writer.write(1, 1, 7, 0, BAD._replace(reason="é" * 500))
    assert reader.read(1, 1, 7, SECOND)[0].reason == "?" * 159


def test_only_the_writer_writes(pair: tuple[Verdicts, Verdicts]) -> None:
    writer, reader = pair
    for attempt in (lambda: reader.beat(1), reader.publish, lambda: reader.write(0, 0, 1, 0, GOOD)):
        with pytest.raises(LayoutError):
            attempt()
    for service, slot in ((64, 0), (0, 256), (-1, 0)):
        with pytest.raises(IndexError):
            writer.write(service, slot, 1, 0, GOOD)


def test_attaching_to_something_else_fails() -> None:
    descriptor = allocate("test-config", config_size())
    ConfigTable(descriptor, True, True)
    with pytest.raises(LayoutError):
        Verdicts(descriptor)
    os.close(descriptor)


def test_no_two_servers_have_one_identity() -> None:
    descriptor = allocate("test-config", config_size())
    table = ConfigTable(descriptor, True, True)
    table.set_service(0, "a", "wlc", 1, 0)
    seen = set()
    for turn in range(3):
        table.add_server(0, 0, f"s{turn}", "192.0.2.1:53", 1)
        seen.add(table.servers(0)[0].identity)
        table.remove_server(0, 0)
        table.free_server(0, 0)
    table.free_service(0)
    table.set_service(0, "b", "wlc", 1, 0)
    table.add_server(0, 0, "t", "192.0.2.1:53", 1)
    assert len(seen | {table.servers(0)[0].identity}) == 4
    os.close(descriptor)


@pytest.mark.parametrize(("udp", "tcp", "suspected", "word"), [
    (UP, UP, False, "up"), (UNKNOWN, UNKNOWN, False, "up"), (UP, UP, True, "suspected"), (DOWN, UP, False, "degraded"),
    (UP, DOWN, True, "degraded"), (DOWN, SPARED, False, "down"), (SPARED, SPARED, True, "down"),
])
def test_one_word(udp: str, tcp: str, suspected: bool, word: str) -> None:
    verdicts = (Found(udp), Found(tcp))
    assert serving_state(verdicts, suspected) == word
    entry = ServerEntry(0, "s", "192.0.2.1:53", 1, "present", 0, 1)
    assert state_of(entry, verdicts, suspected) == word
    assert state_of(entry._replace(weight=0), verdicts, suspected) == "drained"
    assert state_of(entry._replace(state="removed"), verdicts, suspected) == "removed"
    for ordered in ("up", "down", "drained"):
        assert state_of(entry._replace(ordered=ordered), verdicts, suspected) == ordered, "the operator's word counts"
