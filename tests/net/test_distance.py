"""Servers that are far away: their distance is no silence."""

from __future__ import annotations

import contextlib

import pytest

from tests.conftest import StartBalancer
from tests.helpers import wire
from tests.helpers.netns import require_netns
from tests.helpers.network import Network
from tests.helpers.ports import address
from tests.helpers.tcp import TcpClient, TcpServer

pytestmark = pytest.mark.net

ROUND_TRIP = 0.3
LATER = "450ms"         # more than one round trip, less than a handshake and a query together


def test_a_handshake_is_no_silence(start: StartBalancer) -> None:
    """New connections to servers of which one round trip is the other half of `retry_after`: nobody else is asked."""
    require_netns()
    with Network({"client": 1, "director": 2, "far": 11, "farther": 12}, delayed=("far", "farther")) as network, (
            contextlib.ExitStack()) as stack:
        servers = []
        for name in ("far", "farther"):
            network.delay(name, ROUND_TRIP / 2)
            with network[name].entered():
                servers.append(stack.enter_context(TcpServer(host=network[name].address4, port=5300)))
            with network["director"].entered(), TcpClient(servers[-1].address):
                pass        # ARP has its round trip, too: this was it
        listen = address(network["director"].address4, 5300)
        balancer = start([server.address for server in servers], [listen], prefix=network["director"].prefix,
                         service={"retry_after": LATER})
        with network["client"].entered():
            clients = [stack.enter_context(TcpClient(listen)) for _ in range(6)]
        for turn in range(2):
            for number, client in enumerate(clients):
                client.say(wire.query(ident=10 * turn + number))
            for client in clients:
                assert wire.rcode(client.hear()) == 0
        assert balancer.wait_idle()["tcp"]["answers"] == 12
        told = [balancer.tcp_server(number) for number in range(2)]
        assert [(one["queries"], one["connections"], one["resends"]) for one in told] == [(6, 3, 0), (6, 3, 0)]
