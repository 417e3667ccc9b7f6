"""AXFR and IXFR: whole, in order, never spliced, with backpressure; the connection stays usable (RFC 5936, 1995)."""

from __future__ import annotations

import struct
import time

import pytest

from tests.conftest import OpenTcpClient, StartBalancer, StartTcpServer
from tests.helpers import wire
from tests.helpers.daemon import Balancer
from tests.helpers.tcp import Asked, Connection, TcpClient, TcpHandler, answering, silent
from tests.helpers.waiting import wait_for

ADMIT = {"transfer": ["0.0.0.0/0"]}
AXFR = wire.query("zone.example", "AXFR", ident=1)


def part(request: bytes, number: int, size: int = 16000, question: bool = True) -> bytes:
    """The number-th message of a transfer; later ones need no question (RFC 5936 §2.2)."""
    head = wire.header(wire.ident(request), wire.QR | wire.AA, (int(question), 1, 0, 0))
    name = request[wire.HEADER : wire.question_end(request)] if question else b""
    filler = bytes([number & 0xFF]) * (size - len(head) - len(name) - 11)
    return head + name + b"\0" + struct.pack("!HHIH", 10, 1, 60, len(filler)) + filler


def transferring(count: int, size: int = 16000, then: TcpHandler | None = None) -> TcpHandler:
    """Answer AXFR and IXFR in `count` messages, everything else as usual."""

    def handle(asked: Asked) -> None:
        if asked.data[wire.question_end(asked.data) - 4 :][:2] not in (b"\0\xfb", b"\0\xfc"):
            asked.answer()
            return
        for number in range(count):
            asked.connection.say(part(asked.data, number, size, question=number == 0))
        if then is not None:
            then(asked)

    return handle


@pytest.mark.parametrize("kind", ["AXFR", "IXFR"])
@pytest.mark.parametrize("count", [1, 4, 200])
def test_transfer(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient, kind: str, count: int
) -> None:
    """All messages, in order; then an ordinary query, a second transfer, and a query again."""
    servers = [tcpserver(transferring(count)), tcpserver(transferring(count))]
    balancer = start([server.address for server in servers], admit=ADMIT)
    client = tcpclient(balancer.address)
    for ident in (1, 2):
        asked = wire.query("zone.example", kind, ident=ident)
        client.say(asked)
        assert client.hear_all(count) == [part(asked, number, question=number == 0) for number in range(count)]
        data = wire.query(ident=ident)
        assert client.ask(data) == wire.answer(data, wire.address_record()), "even with the id of the transfer"
    assert sorted(len(server.asked) for server in servers) == [0, 4], "married to one connection"
    assert balancer.tcp()["transfers"] == 2
    client.close()
    wait_for("never pooled", lambda: sum(server.open_connections() for server in servers) == 0)


def test_query_beside_a_transfer(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    server = tcpserver(transferring(3))
    balancer = start([server.address], admit=ADMIT)
    client = tcpclient(balancer.address)
    client.say(AXFR, wire.query(ident=2), wire.query(ident=3))
    assert sorted(wire.ident(answer) for answer in client.hear_all(5)) == [1, 1, 1, 2, 3]


def test_refused_transfer_releases_the_connection(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    balancer = start([tcpserver(lambda asked: asked.answer(code="REFUSED")).address], admit=ADMIT)
    client = tcpclient(balancer.address)
    assert wire.rcode(client.ask(AXFR)) == wire.RCODES["REFUSED"]
    wait_for("idle again", lambda: balancer.tcp_server()["idle"] == 1)


def test_server_that_ends_with_the_transfer(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """The client gets everything, then the end: it cannot be told apart from a transfer cut off."""
    balancer = start([tcpserver(transferring(50, then=lambda asked: asked.connection.close())).address], admit=ADMIT)
    client = tcpclient(balancer.address)
    client.say(AXFR)
    assert [message[-1] for message in client.hear_all(50)] == list(range(50))
    client.wait_closed()
    balancer.wait_tcp("closed", {"server_lost": 1})


def test_server_dies_in_mid_transfer(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """Closed, and never continued by another server."""
    servers = [tcpserver(transferring(3, then=lambda asked: asked.connection.reset())) for _ in range(2)]
    balancer = start([server.address for server in servers], admit=ADMIT)
    client = tcpclient(balancer.address)
    client.say(AXFR)
    heard = []
    with pytest.raises(EOFError):
        for _ in range(4):
            heard.append(client.hear())
    assert len(heard) <= 3
    assert sum(len(server.asked) for server in servers) == 1


def test_server_dies_before_the_transfer(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """Nothing of it has come yet: another server may do it."""
    broken, good = tcpserver(lambda asked: asked.connection.close()), tcpserver(transferring(3))
    balancer = start([broken.address, good.address], admit=ADMIT, scheduler="rr")
    for ident in range(4):
        with TcpClient(balancer.address) as client:
            asked = wire.query("zone.example", "AXFR", ident=ident)
            client.say(asked)
            assert client.hear_all(3) == [part(asked, number, question=number == 0) for number in range(3)]
    assert broken.asked


def test_pending_query_when_the_transfer_is_lost(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """It is answered by another server before the client is closed."""

    def dying(asked: Asked) -> None:
        if len(first.asked) == 2:
            first.asked[0].connection.say(part(first.asked[0].data, 0))
            time.sleep(0.1)
            asked.connection.close()

    first, second = tcpserver(dying), tcpserver(answering)
    balancer = start([first.address], admit=ADMIT)
    client = tcpclient(balancer.address)
    client.say(AXFR)
    first.wait(1)
    balancer.reload(servers=[first.address, second.address], admit=ADMIT)
    client.say(wire.query(ident=2))
    assert [wire.ident(message) for message in client.hear_all(2)] == [1, 2]
    client.wait_closed()


def resident(balancer: Balancer) -> int:
    with open(f"/proc/{balancer.workers()[0]}/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def test_slow_reader(start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient) -> None:
    """40 MB toward a client that reads slowly: bounded memory, the server is held back, all of it arrives."""
    server = tcpserver(transferring(640, 65000))
    balancer = start([server.address], admit=ADMIT)
    client = tcpclient(balancer.address, receive_buffer=65536)
    client.say(wire.query("zone.example", "AXFR", ident=1))
    client.hear()
    before = resident(balancer)
    time.sleep(1)
    assert resident(balancer) - before < 4 << 20
    bystander = tcpclient(balancer.address)
    for number in range(1, 640):
        message = client.hear()
        assert len(message) == 65000
        assert message[-1] == number & 0xFF
        if number % 100 == 0:
            bystander.ask(wire.query(ident=number))
            assert resident(balancer) - before < 4 << 20


def test_reader_that_stops(start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient) -> None:
    """No progress for tcp_idle: both connections are closed."""
    server = tcpserver(transferring(640, 65000))
    balancer = start([server.address], admit=ADMIT, service={"tcp_idle": "1s"})
    client = tcpclient(balancer.address, receive_buffer=4096)
    client.say(AXFR)
    balancer.wait_tcp("closed", {"unread": 1})
    wait_for("server let go", lambda: balancer.tcp_server()["open"] == 0)


def test_half_closed_client_gets_its_transfer(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    def slowly(asked: Asked) -> None:
        for number in range(5):
            asked.connection.say(part(asked.data, number))
            time.sleep(0.1)

    balancer = start([tcpserver(slowly).address], admit=ADMIT)
    client = tcpclient(balancer.address)
    client.say(AXFR)
    client.half_close()
    assert [message[-1] for message in client.hear_all(5)] == list(range(5))
    client.wait_closed()


def test_client_leaves_in_mid_transfer(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    server = tcpserver(transferring(640, 65000))
    balancer = start([server.address], admit=ADMIT)
    with TcpClient(balancer.address) as client:
        client.say(AXFR)
        client.hear()
    wait_for("both closed", lambda: balancer.tcp()["open"] == 0 and balancer.tcp_server()["open"] == 0)


def test_idle_marriage_ends(start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient) -> None:
    server = tcpserver(transferring(2))
    balancer = start([server.address], admit=ADMIT, service={"tcp_idle": "1s"})
    client = tcpclient(balancer.address)
    client.say(AXFR)
    client.hear_all(2)
    client.wait_closed()
    balancer.wait_tcp("closed", {"idle": 1})
    wait_for("both closed", lambda: server.open_connections() == 0)


def test_unasked_ids_in_a_transfer_are_not_passed_on(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    def lying(asked: Asked) -> None:
        asked.connection.say(part(asked.data, 0), part(wire.with_id(asked.data, 77), 9), part(asked.data, 1))

    balancer = start([tcpserver(lying).address], admit=ADMIT)
    client = tcpclient(balancer.address)
    client.say(AXFR)
    assert client.hear_all(2) == [part(AXFR, 0), part(AXFR, 1)]
    client.nothing_comes(0.1)
    assert balancer.tcp_server()["ignored"]["unknown_id"] == 1


def test_transfers_at_once(start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient) -> None:
    """Two on one connection, messages interleaved: relayed as they come."""
    met: list[Asked] = []

    def interleaved(asked: Asked) -> None:
        met.append(asked)
        if len(met) == 2:
            for number in range(10):
                for one in met:
                    one.connection.say(part(one.data, number))

    balancer = start([tcpserver(interleaved).address], admit=ADMIT)
    client: Connection = tcpclient(balancer.address)
    client.say(wire.query("a.example", "AXFR", ident=1), wire.query("b.example", "IXFR", ident=2))
    heard = client.hear_all(20)
    assert [wire.ident(message) for message in heard] == [1, 2] * 10
    assert [message[-1] for message in heard[::2]] == list(range(10))


def test_transfer_without_an_answer(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    balancer = start([tcpserver(silent).address], admit=ADMIT, service={"tcp_timeout": "300ms"})
    client = tcpclient(balancer.address)
    assert wire.rcode(client.ask(AXFR)) == wire.RCODES["SERVFAIL"]
