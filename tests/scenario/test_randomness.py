"""Ids and source ports toward a server cannot be guessed (RFC 5452 §9.2)."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from tests.conftest import OpenClient, StartBalancer, StartServer
from tests.helpers import wire
from tests.helpers.nameserver import NameServer

COUNT = 3000


@pytest.fixture
def server(start: StartBalancer, nameserver: StartServer, client: OpenClient) -> NameServer:
    """A name server that was asked COUNT times, one query after the other, all with the same id."""
    server = nameserver()
    one = client(start([server.address]).address)
    for _ in range(COUNT):
        one.ask(wire.query(ident=1234))
    return server


def chi_square(values: list[int]) -> float:
    """Against an even spread over 16; a random sequence exceeds 60 once in 4 million."""
    counts = Counter(values)
    expected = len(values) / 16
    return sum((counts[value] - expected) ** 2 / expected for value in range(16))


def test_ids_and_ports_are_random(server: NameServer) -> None:
    ids = [wire.ident(data) for data in server.messages]
    for shift in (0, 4, 8, 12):
        assert chi_square([ident >> shift & 15 for ident in ids]) < 60, f"bits {shift}-{shift + 3}"
    steps = Counter((after - before) & 0xFFFF for before, after in pairwise(ids))
    assert steps.most_common(1)[0][1] < 8, f"a step that comes again and again: {steps.most_common(3)}"
    assert len(set(ids)) > COUNT * 0.95

    ports = Counter(received.port for received in server.received)
    assert len(ports) >= 8
    distances = [after - before for before, after in pairwise(sorted(ports))]
    assert sum(distance == 1 for distance in distances) < len(distances) / 2, f"neighbours: {sorted(ports)}"
    assert max(ports.values()) < COUNT / 4, f"hardly spread: {ports}"


def test_ports_are_others_after_a_restart(
    start: StartBalancer, nameserver: StartServer, client: OpenClient
) -> None:
    server = nameserver()
    seen = []
    for _ in range(2):
        server.received.clear()
        one = client(start([server.address]).address)
        for _ in range(64):
            one.ask(wire.query())
        seen.append({received.port for received in server.received})
    assert len(seen[0] & seen[1]) <= 2, seen
