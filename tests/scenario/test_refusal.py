"""Servers whose port is closed: noticed at once, answered by another, heard again when they are back."""

from __future__ import annotations

import contextlib

import pytest

from tests.conftest import OpenClient, StartBalancer, StartServer
from tests.helpers import wire
from tests.helpers.client import ask, load
from tests.helpers.nameserver import NameServer
from tests.helpers.ports import free_address, split
from tests.helpers.waiting import wait_for


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_lone_server_that_refused_is_heard_again(start: StartBalancer, client: OpenClient, host: str) -> None:
    """A connected UDP socket with an error pending must not go deaf."""
    closed = free_address(host)
    balancer = start([closed], udp_timeout="0.5s")
    one = client(balancer.address)
    for number in range(10):
        one.send(wire.query(ident=number))
        one.nothing_comes(0.02)
    wait_for("refusals counted", lambda: balancer.server()["refusals"])
    balancer.wait_idle()
    with NameServer(host=host, port=split(closed)[1]) as server:

        def heard() -> bool:
            with contextlib.suppress(AssertionError):
                return bool(ask(balancer.address))
            return False

        wait_for("the server that is back is heard", heard)
        another = client(balancer.address)
        for _ in range(40):
            another.ask(wire.query())
        assert len(server.received) >= 41


@pytest.mark.parametrize("scheduler", ["wlc", "rr"])
def test_refused_queries_are_answered_by_the_other(
    start: StartBalancer, nameserver: StartServer, client: OpenClient, scheduler: str
) -> None:
    """And the one that is back is heard."""
    closed, other = free_address(), nameserver()
    balancer = start([closed, other.address], scheduler=scheduler)
    one = client(balancer.address)
    for _ in range(20):
        one.ask(wire.query())
    service = balancer.wait_idle()
    assert service["servers"][0]["refusals"] >= 1
    assert service["servers"][1]["resends"] >= 1
    assert service["answers"] == 20
    with NameServer(port=split(closed)[1]) as back:
        wait_for("it is asked again", lambda: one.ask(wire.query()) and len(back.received) >= 5)


def test_a_batch_toward_a_closed_port_is_answered_by_the_other(
    start: StartBalancer, nameserver: StartServer, client: OpenClient
) -> None:
    """sendmmsg hides the error of one message behind a short count: nothing behind it may be lost."""
    closed, other = free_address(), nameserver()
    balancer = start([closed, other.address])
    one = client(balancer.address)
    for attempt in range(5):
        with balancer.frozen():
            for number in range(32):
                one.send(wire.query(ident=number))
        answered = sorted(wire.ident(one.receive()) for _ in range(32))
        assert answered == list(range(32)), f"attempt {attempt}"


def test_server_ends_and_returns_under_load(start: StartBalancer, nameserver: StartServer) -> None:
    """Its port closes: refused, re-sent, answered by the other. 500 queries per second, none lost.

    Those it had read and not answered would be lost, so it answers at once.
    """
    other = nameserver()
    first = NameServer()
    balancer = start([first.address, other.address])
    back: list[NameServer] = []
    seen = load(
        balancer.address,
        500,
        3,
        [(0.8, first.close), (1.8, lambda: back.append(nameserver(port=first.port)))],
    )
    assert seen.lost == []
    assert seen.twice == 0
    wait_for("the one that is back is asked", lambda: ask(balancer.address) and back[0].received)
