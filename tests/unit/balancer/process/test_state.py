"""What a supervisor takes over from another one: its table as it is, or by value when that is laid out otherwise."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from balancer.process.state import Inheritance, State
from balancer.table.table import allocate, config_size
from balancer.table.verdicts import DOWN, Found
from balancer.table.view import difference
from tests.helpers.table import Table
from tests.unit.balancer.config.files import load_text

VERSION_AT = 8                          # bytes of ConfigHeader before its version
GAUGES = {"inflight", "open", "idle", "worker_lost"}     # the last counts what the others had at an end
OLD = {"a": ["s1", "s2", "s3"], "b": ["s1"]}


def config(**services: list[int]) -> Any:
    """Services by name, each with the servers s1, s2 … of these numbers."""
    parts = [f'[[service]]\nname = "{name}"\nlisten = ["127.0.0.1:5300"]\n'.replace("5300", str(5300 + place))
             + "".join(f'[[service.server]]\nname = "s{number}"\naddress = "192.0.2.1:{number}"\n'
                       for number in numbers)
             for place, (name, numbers) in enumerate(services.items())]
    return load_text("".join(parts))


def plain(found: Any) -> Any:
    """Without what is no counter."""
    if isinstance(found, dict):
        return {key: plain(value) for key, value in found.items() if key not in GAUGES}
    return [plain(one) for one in found] if isinstance(found, list) else found


def by_name(state: Any) -> dict[str, Any]:
    return {one["name"]: (plain(one["counters"]), {tuple(server[:2]): plain(server[2]) for server in one["servers"]})
            for one in state.counters()}


@pytest.fixture
def old() -> Iterator[Table]:
    with Table(OLD) as table:
        table.fill(3)
        yield table


def inheritance(table: Table, version: int | None = None) -> Inheritance:
    """All its memory; with another layout version, where one is given."""
    copy = allocate("test-copy", config_size())
    os.pwrite(copy, os.pread(table.config_fd, config_size(), 0), 0)
    if version is not None:
        os.pwrite(copy, version.to_bytes(8, "little"), VERSION_AT)
    return Inheritance((), copy, [os.dup(row) for row in table.row_fds])


def test_same_layout(old: Table) -> None:
    """All counters go on, in the same slots; they move at the end, and are the same then."""
    state = State(config(b=[1], a=[3, 1, 4]), 0, inheritance(old))
    assert state.attached
    before, now = by_name(old.view), by_name(state.view())
    assert now["b"] == before["b"]
    assert now["a"][0] == before["a"][0]
    for number in (1, 3):
        assert now["a"][1][f"s{number}", f"192.0.2.1:{number}"] == before["a"][1][f"s{number}", f"192.0.2.1:{number}"]
    assert {server["name"]: server["state"] for server in state.view().services()[0]["servers"]} == {
        "s1": "up", "s2": "removed", "s3": "up", "s4": "up"}
    generation = state.table.generation
    assert generation > old.config.generation
    state.bury_inherited()
    assert by_name(state.view()) == now
    assert [server["name"] for server in state.view().services()[0]["servers"]] == ["s1", "s3", "s4"], "s2 is gone"
    assert state.view().services()[0]["inflight"] == 0


def test_old_table_stays_as_it_is(old: Table) -> None:
    before = os.pread(old.config_fd, config_size(), 0)
    given = inheritance(old)
    watched = os.dup(given.config or 0)
    State(config(a=[1]), 0, given)
    assert os.pread(watched, config_size(), 0) == before
    os.close(watched)


@pytest.mark.parametrize("version", [0, 1, 2**64 - 1])
def test_other_layout(old: Table, version: int) -> None:
    """Counters come by value, as often as they are told, and never twice."""
    state = State(config(b=[1], a=[3, 1, 4]), 0, inheritance(old, version))
    assert not state.attached
    for told in (*old.view.counters(), *old.view.counters()):
        state.carry(told)
    before, now = by_name(old.view), by_name(state.view())
    assert now["b"] == before["b"] and now["a"][0] == before["a"][0]
    assert now["a"][1]["s3", "192.0.2.1:3"] == before["a"][1]["s3", "192.0.2.1:3"]
    assert not any(_numbers(now["a"][1]["s4", "192.0.2.1:4"]))


def test_other_layout_counts_on(old: Table) -> None:
    """What the old workers still count while they end is added."""
    state = State(config(a=[1, 2, 3], b=[1]), 0, inheritance(old, 1))
    first = old.view.counters()
    for told in first:
        state.carry(told)
    more = _doubled(first[0])
    state.carry(more)
    assert by_name(state.view())["a"] == (plain(more["counters"]), {
        tuple(server[:2]): plain(server[2]) for server in more["servers"]})


def test_counters_that_this_version_does_not_have(old: Table) -> None:
    """A later, or an earlier, version counts other things: what both have is kept."""
    state = State(config(a=[1]), 0, inheritance(old, 1))
    state.carry({"name": "a", "counters": {"queries": 7, "wonders": 1, "dropped": {"never": 2, "short": 3}, "tcp": {}},
                 "servers": [["s1", "192.0.2.1:1", {"queries": 5, "latency": [1, 2], "answers": {}}],
                             ["gone", "192.0.2.9:1", {"queries": 5}]]})
    state.carry({"name": "no such service", "counters": {}, "servers": []})
    [service] = state.view().services()
    assert (service["queries"], service["dropped"]["short"], service["servers"][0]["queries"]) == (7, 3, 5)


def test_descriptors_that_are_no_table() -> None:
    """Anything may be behind them: then there is nothing to take over."""
    small = allocate("test-small", 64)
    for one in (small, allocate("test-zero", config_size())):
        assert not State(config(a=[1]), 0, Inheritance((), one, [os.dup(small)])).attached


def test_verdicts_go_on(old: Table) -> None:
    """A server that is down does not count as up until somebody has probed it again."""
    before = State(config(a=[1, 2], b=[1]), 0)
    now, entry = time.monotonic_ns(), before.table.servers(0)[0]
    before.verdicts.write(0, entry.slot, entry.identity, 0, Found(DOWN, now, 0, now, 5, "no answer"))
    before.verdicts.beat(now)
    before.verdicts.publish()
    memory = Inheritance((), os.dup(before.config_fd), [os.dup(before.past_fd)], os.dup(before.verdicts_view_fd))
    after = State(config(a=[1, 2], b=[1]), 0, memory)
    assert after.attached
    found = after.view().services()[0]["servers"][0]["health"]["udp"]
    assert (found["verdict"], found["reason"]) == (DOWN, "no answer")
    small = allocate("test-small", 64)
    assert State(config(a=[1]), 0, Inheritance((), None, (), small)).view().services()[0]["servers"][0]["state"] == "up"


def test_difference() -> None:
    assert difference({"a": 5, "b": {"c": [1, 2]}, "d": 1}, {"a": 3, "b": {"c": [1, 1]}}) == {
        "a": 2, "b": {"c": [0, 1]}, "d": 1}


def _numbers(found: Any) -> list[int]:
    if isinstance(found, dict):
        return [number for one in found.values() for number in _numbers(one)]
    return [number for one in found for number in _numbers(one)] if isinstance(found, list) else [found]


def _doubled(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: _doubled(value) for key, value in found.items()}
    if isinstance(found, list):
        return [_doubled(one) for one in found]
    return found * 2 if isinstance(found, int) else found
