"""Who gets how much: the schedulers seen from the servers, one query at a time and under load."""

from __future__ import annotations

import pytest

from tests.conftest import StartBalancer, StartServer
from tests.helpers import wire
from tests.helpers.client import Client, ask, load
from tests.helpers.config import Server
from tests.helpers.daemon import Balancer
from tests.helpers.nameserver import delayed

# Each query once, to whom the scheduler says: a machine that stands still for a moment makes servers look late.
ONCE = {"retry": "off", "suspend": "off"}


def shares(balancer: Balancer, count: int, clients: int = 1) -> list[int]:
    """Ask `count` times, one query at a time; how many each server was sent, by ns7's own count."""
    opened = [Client(balancer.address) for _ in range(clients)]
    try:
        for number in range(count):
            opened[number % clients].ask(wire.query(ident=number))
    finally:
        for one in opened:
            one.close()
    return [server["queries"] for server in balancer.wait_idle()["servers"]]


@pytest.mark.parametrize("scheduler", ["wlc", "lc", "wrr", "rr"])
def test_equal_servers_get_half_each(start: StartBalancer, nameserver: StartServer, scheduler: str) -> None:
    servers = [nameserver(), nameserver()]
    got = shares(start([server.address for server in servers], scheduler=scheduler, service=ONCE), 600)
    assert got == [len(server.received) for server in servers]
    assert sum(got) == 600
    assert all(297 <= count <= 303 for count in got), got


@pytest.mark.parametrize("scheduler", ["wlc", "wrr"])
def test_servers_get_their_weight(start: StartBalancer, nameserver: StartServer, scheduler: str) -> None:
    servers = [Server(nameserver().address, weight) for weight in (1, 2, 3)]
    got = shares(start(servers, scheduler=scheduler, service=ONCE), 600)
    assert all(abs(count - 100 * weight) <= 12 for weight, count in enumerate(got, 1)), got


@pytest.mark.parametrize("scheduler", ["lc", "rr"])
def test_unweighted_schedulers_look_past_the_weight(
    start: StartBalancer, nameserver: StartServer, scheduler: str
) -> None:
    """As IPVS: lc and rr ask the weight only whether a server takes part."""
    servers = [Server(nameserver().address, weight) for weight in (1, 5, 50)]
    got = shares(start(servers, scheduler=scheduler, service=ONCE), 300)
    assert all(97 <= count <= 103 for count in got), got


@pytest.mark.parametrize("scheduler", ["wlc", "lc", "wrr", "rr", "sh"])
def test_weight_zero_gets_none(start: StartBalancer, nameserver: StartServer, scheduler: str) -> None:
    drained = nameserver()
    servers = [Server(nameserver().address), Server(drained.address, 0), Server(nameserver().address)]
    balancer = start(servers, scheduler=scheduler, service=ONCE)
    got = shares(balancer, 200)
    assert got[1] == 0
    assert drained.received == []
    assert [server["state"] for server in balancer.service()["servers"]] == ["up", "drained", "up"]


def test_same_client_same_server(start: StartBalancer, nameserver: StartServer) -> None:
    """sh: by the client's address, whatever its port; different clients spread."""
    servers = [nameserver(), nameserver()]
    balancer = start([server.address for server in servers], scheduler="sh", service=ONCE)
    chosen = []
    for host in range(2, 42):
        before = [len(server.received) for server in servers]
        for _ in range(3):
            ask(balancer.address, source=f"127.0.0.{host}")
        got = [len(server.received) - count for server, count in zip(servers, before, strict=True)]
        assert sorted(got) == [0, 3], f"client 127.0.0.{host}: {got}"
        chosen.append(got.index(3))
    assert 8 <= sum(chosen) <= 32, f"{sum(chosen)} of 40 clients went to the second server"


@pytest.mark.parametrize("scheduler", ["wlc", "lc"])
def test_slow_server_gets_less(start: StartBalancer, nameserver: StartServer, scheduler: str) -> None:
    """Least-connection: who has many in flight gets few new ones."""
    quick, slow = nameserver(), nameserver(delayed(0.3))
    balancer = start([quick.address, slow.address], scheduler=scheduler, service=ONCE)
    assert load(balancer.address, 200, 2).lost == []
    assert len(slow.received) < 0.25 * len(quick.received)


def test_two_workers_share_evenly(start: StartBalancer, nameserver: StartServer) -> None:
    servers = [nameserver(), nameserver()]
    balancer = start([server.address for server in servers], workers=2, service=ONCE)
    got = shares(balancer, 600, clients=32)
    assert all(288 <= count <= 312 for count in got), got
