"""Where ns7 listens: IPv4, IPv6, several addresses, wildcards; answers leave from the address asked."""

from __future__ import annotations

import pytest

from tests.conftest import OpenClient, StartBalancer, StartServer
from tests.helpers import wire
from tests.helpers.client import ask
from tests.helpers.config import Server
from tests.helpers.ports import free_address, free_port


@pytest.mark.parametrize("server_host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_any_client_any_server(
    start: StartBalancer, nameserver: StartServer, client: OpenClient, host: str, server_host: str
) -> None:
    server = nameserver(host=server_host)
    balancer = start([server.address], [free_address(host)])
    client(balancer.address).ask_all([wire.query(ident=number) for number in range(50)])
    assert len(server.received) == 50


def test_several_addresses(start: StartBalancer, nameserver: StartServer) -> None:
    server = nameserver()
    listen = [*(free_address(host) for host in ("127.0.0.1", "127.0.0.2", "::1")), free_address()]
    balancer = start([server.address], listen, workers=2)
    for address in listen:
        for _ in range(10):
            ask(address)
    assert sorted(balancer.service()["listen"]) == sorted(listen)
    assert balancer.wait_idle()["answers"] == 40


def test_wildcards_answer_from_the_address_that_was_asked(
    start: StartBalancer, nameserver: StartServer
) -> None:
    """Connected clients hear no other; both families share one port."""
    server = nameserver()
    port = free_port("0.0.0.0", "::")
    start([server.address], [f"0.0.0.0:{port}", f"[::]:{port}"], workers=2)
    for address in (f"127.0.0.1:{port}", f"127.0.0.2:{port}", f"127.0.0.3:{port}", f"[::1]:{port}"):
        for _ in range(10):
            ask(address)
    assert len(server.received) == 40


def test_refusal_by_us_leaves_from_the_address_that_was_asked(
    start: StartBalancer, nameserver: StartServer
) -> None:
    server = nameserver()
    port = free_port("0.0.0.0")
    start([server.address], [f"0.0.0.0:{port}"])
    answer = ask(f"127.0.0.2:{port}", wire.query(qtype="AXFR"))
    assert wire.rcode(answer) == wire.RCODES["REFUSED"]


def test_source_toward_the_server(start: StartBalancer, nameserver: StartServer) -> None:
    plain, told = nameserver(), nameserver()
    balancer = start([Server(plain.address), Server(told.address, source="127.0.0.9")], scheduler="rr")
    for _ in range(20):
        ask(balancer.address)
    assert {received.source[0] for received in plain.received} == {"127.0.0.1"}
    assert {received.source[0] for received in told.received} == {"127.0.0.9"}


@pytest.mark.parametrize("sockets", [1, 3])
def test_number_of_sockets_toward_a_server(
    start: StartBalancer, nameserver: StartServer, sockets: int
) -> None:
    server = nameserver()
    balancer = start([Server(server.address, sockets=sockets)])
    for _ in range(40):
        ask(balancer.address)
    assert len({received.port for received in server.received}) == sockets
