"""`primary`: SOA, AXFR, IXFR, NOTIFY and UPDATE go to one server, over UDP and TCP alike."""

from __future__ import annotations

import pytest

from tests.conftest import OpenClient, OpenTcpClient, StartBalancer, StartServer, StartTcpServer
from tests.helpers import wire
from tests.helpers.client import Client
from tests.helpers.config import Server
from tests.helpers.nameserver import NameServer, always
from tests.helpers.tcp import TcpClient, TcpServer

EVERYBODY = {kind: ["0.0.0.0/0"] for kind in ("query", "transfer", "update", "notify")}
OWN = {
    "SOA": wire.query("zone.example", "SOA"),
    "AXFR": wire.query("zone.example", "AXFR"),
    "IXFR": wire.query("zone.example", "IXFR"),
    "NOTIFY": wire.query("zone.example", "SOA", opcode="NOTIFY"),
    "UPDATE": wire.query("zone.example", "SOA", opcode="UPDATE"),
}
ONLY = ("NOTIFY", "UPDATE")


class Pair:
    """Two servers on UDP and TCP; the second one is the primary."""

    def __init__(self, nameserver: StartServer, tcpserver: StartTcpServer) -> None:
        self.tcp: list[TcpServer] = [tcpserver(), tcpserver()]
        make = always(lambda data: wire.answer(data, wire.address_record()))
        self.udp: list[NameServer] = [nameserver(make, port=one.port) for one in self.tcp]

    def servers(self, weight: int = 1) -> list[Server]:
        return [Server(self.tcp[0].address, name="one", weight=9),
                Server(self.tcp[1].address, name="two", weight=weight)]

    def asked(self) -> list[int]:
        return [len(self.tcp[number].asked) + len(self.udp[number].received) for number in (0, 1)]


@pytest.fixture
def pair(nameserver: StartServer, tcpserver: StartTcpServer) -> Pair:
    return Pair(nameserver, tcpserver)


def ask(address: str, data: bytes, proto: str) -> bytes:
    if proto == "tcp":
        with TcpClient(address) as client:
            return client.ask(data)
    with Client(address) as one:
        return one.ask(data)


@pytest.mark.parametrize("proto", ["udp", "tcp"])
@pytest.mark.parametrize("kind", OWN)
def test_goes_to_the_primary(start: StartBalancer, pair: Pair, kind: str, proto: str) -> None:
    balancer = start(pair.servers(), admit=EVERYBODY, service={"primary": "two"})
    for _ in range(4):
        assert wire.rcode(ask(balancer.address, OWN[kind], proto)) == 0
    assert pair.asked() == [0, 4]


@pytest.mark.parametrize("proto", ["udp", "tcp"])
@pytest.mark.parametrize("kind", OWN)
def test_primary_is_not_up(start: StartBalancer, pair: Pair, kind: str, proto: str) -> None:
    """The others get what they can do; what only it can do fails at once."""
    balancer = start(pair.servers(weight=0), admit=EVERYBODY, service={"primary": "two"})
    code = wire.rcode(ask(balancer.address, OWN[kind], proto))
    assert code == wire.RCODES["SERVFAIL" if kind in ONLY else "NOERROR"]
    assert pair.asked() == ([0, 0] if kind in ONLY else [1, 0])
    if kind in ONLY:
        service = balancer.service()
        assert (service if proto == "udp" else service["tcp"])["dropped"]["primary_down"] == 1


@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_other_queries_go_where_they_always_went(start: StartBalancer, pair: Pair, proto: str) -> None:
    balancer = start(pair.servers(), admit=EVERYBODY, service={"primary": "two"})
    for _ in range(10):
        ask(balancer.address, wire.query(), proto)
    assert pair.asked() == [9, 1]


def test_both_on_one_connection(start: StartBalancer, pair: Pair, tcpclient: OpenTcpClient) -> None:
    """A client may ask for both in one segment."""
    balancer = start(pair.servers(), admit=EVERYBODY, service={"primary": "two"})
    client = tcpclient(balancer.address)
    asked = [wire.query(qtype="A" if number % 2 else "SOA", ident=number) for number in range(20)]
    client.say(*asked)
    assert sorted(wire.ident(answer) for answer in client.hear_all(20)) == list(range(20))
    assert len(pair.tcp[1].asked) >= 10
    assert not any(data[-4:-2] == b"\0\x06" for data in pair.tcp[0].messages)


@pytest.mark.parametrize("kind", OWN)
def test_primary_refuses_connections(start: StartBalancer, pair: Pair, kind: str) -> None:
    pair.tcp[1].refuse()
    balancer = start(pair.servers(), admit=EVERYBODY, service={"primary": "two"})
    code = wire.rcode(ask(balancer.address, OWN[kind], "tcp"))
    assert code == wire.RCODES["SERVFAIL" if kind in ONLY else "NOERROR"]


def test_primary_changes_with_a_reload(start: StartBalancer, pair: Pair, client: OpenClient) -> None:
    balancer = start(pair.servers(), admit=EVERYBODY)
    ask(balancer.address, OWN["UPDATE"], "udp")
    assert pair.asked() == [1, 0]
    balancer.reload(service={"primary": "two"})
    for proto in ("udp", "tcp"):
        ask(balancer.address, OWN["UPDATE"], proto)
    assert pair.asked() == [1, 2]
    balancer.reload(service={"primary": "one"})
    for proto in ("udp", "tcp"):
        ask(balancer.address, OWN["UPDATE"], proto)
    assert pair.asked() == [3, 2]
