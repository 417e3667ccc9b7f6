"""Limits of DNS over TCP and hostile clients: a bounded cost, the right counter, closed, and nobody else touched."""

from __future__ import annotations

import contextlib
import socket
import struct
import time

import pytest

from tests.conftest import OpenTcpClient, StartBalancer, StartTcpServer
from tests.helpers import wire
from tests.helpers.tcp import Asked, TcpClient, frame, silent
from tests.helpers.waiting import wait_for

GOOD = wire.query("good.example", ident=1)

# What is said, why the connection is closed, which drop it is.
BAD: dict[str, tuple[bytes, str, dict[str, int]]] = {
    "length 0": (b"\0\0", "not_a_message", {}),
    "length 11": (b"\0\x0b" + b"x" * 11, "not_a_message", {}),
    "an answer": (frame(wire.query(flags=wire.QR)), "response", {"response": 1}),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: ns7\r\n\r\n", "message_time", {}),
    "TLS": (bytes.fromhex("1603010200010001fc0303") + b"x" * 40, "message_time", {}),
    "half a message": (frame(GOOD)[:15], "message_time", {}),
    "half a prefix": (b"\0", "message_time", {}),
}


@pytest.mark.parametrize(("said", "reason", "dropped"), BAD.values(), ids=BAD.keys())
def test_bad_input(
    start: StartBalancer,
    tcpserver: StartTcpServer,
    tcpclient: OpenTcpClient,
    said: bytes,
    reason: str,
    dropped: dict[str, int],
) -> None:
    """Alone, and behind a good query, which is still answered; another client notices nothing."""
    balancer = start([tcpserver().address], service={"tcp_message_time": "300ms"})
    bystander = tcpclient(balancer.address)
    bystander.ask(GOOD)
    alone = tcpclient(balancer.address)
    alone.say_raw(said)
    alone.wait_closed()
    balancer.wait_tcp("closed", {reason: 1})
    behind = tcpclient(balancer.address)
    behind.say_raw(frame(GOOD) + said)
    assert behind.hear() == wire.answer(GOOD, wire.address_record())
    behind.wait_closed()
    balancer.wait_tcp("closed", {reason: 2})
    assert balancer.tcp_told("dropped") == {key: 2 * count for key, count in dropped.items()}
    bystander.ask(wire.query(ident=2))


def test_pending_queries_survive_garbage(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    server = tcpserver(silent)
    balancer = start([server.address])
    client = tcpclient(balancer.address)
    asked = [wire.query(ident=number) for number in range(5)]
    client.say_raw(frame(*asked) + b"\0\x01")
    server.answer_all(server.wait(5))
    assert [wire.ident(answer) for answer in client.hear_all(5)] == list(range(5))
    client.wait_closed()
    balancer.wait_tcp("closed", {"not_a_message": 1})


def test_message_that_never_ends(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """A byte now and then keeps nothing alive: the time runs from the first byte."""
    balancer = start([tcpserver().address], service={"tcp_message_time": "500ms"})
    client = tcpclient(balancer.address)
    with pytest.raises((EOFError, OSError)):
        client.say_raw(b"\xff\xff")
        for _ in range(200):
            client.say_raw(b"x")
            client.socket.settimeout(0.05)
            try:
                if not client.socket.recv(10):
                    raise EOFError
            except TimeoutError:
                pass
    balancer.wait_tcp("closed", {"message_time": 1})


def test_message_in_too_many_pieces(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    balancer = start([tcpserver().address], service={"tcp_message_reads": 10})
    client = tcpclient(balancer.address)
    for number in range(5):
        client.ask(wire.query(ident=number))
    with pytest.raises((EOFError, OSError)):
        for byte in frame(GOOD):
            client.say_raw(bytes([byte]))
            time.sleep(0.005)
        client.hear()
    balancer.wait_tcp("closed", {"message_reads": 1})


def test_idle_client_is_closed(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """Whether it ever asked or not; one that asks stays."""
    balancer = start([tcpserver().address], service={"tcp_idle": "1s"})
    mute, quiet, busy = (tcpclient(balancer.address) for _ in range(3))
    quiet.ask(GOOD)
    for number in range(25):
        busy.ask(wire.query(ident=number))
        time.sleep(0.1)
    balancer.wait_tcp("closed", {"idle": 2})
    mute.wait_closed()
    quiet.wait_closed()
    busy.ask(GOOD)


def test_pending_client_is_not_idle(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    server = tcpserver(silent)
    balancer = start([server.address], service={"tcp_idle": "200ms", "tcp_timeout": "20s"})
    client = tcpclient(balancer.address)
    client.say(GOOD)
    client.nothing_comes(1)
    server.answer_all(server.wait(1))
    client.hear()


def test_connections_per_client(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """The next one is closed on arrival; a slot is free again when one ends; others have their own."""
    balancer = start([tcpserver().address], service={"tcp_per_client": 3})
    mine = [tcpclient(balancer.address, "127.0.0.2") for _ in range(3)]
    for client in mine:
        client.ask(GOOD)
    refused = tcpclient(balancer.address, "127.0.0.2")
    refused.wait_closed()
    balancer.wait_tcp("closed", {"per_client": 1})
    tcpclient(balancer.address, "127.0.0.3").ask(GOOD)
    mine[0].close()
    wait_for("gone", lambda: balancer.tcp_told("closed").get("client") == 1)
    tcpclient(balancer.address, "127.0.0.2").ask(GOOD)


def test_connections_per_client_over_all_workers(start: StartBalancer, tcpserver: StartTcpServer) -> None:
    """Exactly so many for each client, whichever worker it meets; also with another number of workers."""
    balancer = start([tcpserver().address], workers=2, service={"tcp_per_client": 3})
    clients = [f"127.0.7.{number}" for number in range(1, 9)]
    refused = 0
    for workers in (2, 3):
        if workers != 2:
            balancer.reload(workers=workers, service={"tcp_per_client": 3})
        with contextlib.ExitStack() as stack:
            for client in clients:
                for _ in range(3):
                    stack.enter_context(TcpClient(balancer.address, client)).ask(GOOD)
            for client in clients:
                stack.enter_context(TcpClient(balancer.address, client)).wait_closed()
            refused += len(clients)
            while balancer.tcp_told("closed").get("per_client", 0) < refused:
                time.sleep(0.05)
            assert balancer.tcp_told("closed")["per_client"] == refused
            assert balancer.tcp()["open"] == 3 * len(clients)
        wait_for("all have gone", lambda: balancer.tcp()["open"] == 0)


def test_connections_in_all(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """When nearly full the longest idle makes room; when nobody is idle, the newcomer is closed."""
    server = tcpserver(silent)
    balancer = start([server.address], service={"tcp_connections_max": 8, "tcp_timeout": "20s"})
    clients = [tcpclient(balancer.address) for _ in range(8)]
    wait_for("taken", lambda: balancer.tcp()["connections"] == 8)
    newest = tcpclient(balancer.address)
    clients[0].wait_closed()
    balancer.wait_tcp("closed", {"evicted": 1})
    busy = [*clients[1:], newest]
    for number, client in enumerate(busy):
        client.say(wire.query(ident=number))
    server.wait(8)
    tcpclient(balancer.address).wait_closed()
    balancer.wait_tcp("closed", {"evicted": 1, "full": 1})
    server.answer_all(server.asked)
    assert [wire.ident(client.hear()) for client in busy] == list(range(8))


def test_queries_per_connection(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    balancer = start([tcpserver().address], service={"tcp_queries": 5})
    client = tcpclient(balancer.address)
    client.say(*(wire.query(ident=number) for number in range(5)))
    assert sorted(wire.ident(answer) for answer in client.hear_all(5)) == list(range(5))
    client.wait_closed()
    balancer.wait_tcp("closed", {"queries": 1})


def test_lifetime(start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient) -> None:
    """A client that is never idle is closed behind an answer."""
    balancer = start([tcpserver().address], service={"tcp_lifetime": "1s"})
    client = tcpclient(balancer.address)
    with pytest.raises(EOFError):
        for number in range(1000):
            assert wire.ident(client.ask(wire.query(ident=number))) == number
            time.sleep(0.02)
    balancer.wait_tcp("closed", {"lifetime": 1})


def test_client_that_never_reads(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """It asks and asks and takes no answer: reading stops, memory stays, then it is closed."""
    balancer = start([tcpserver(lambda asked: asked.connection.say(wire.sized_answer(asked.data, 30000))).address],
                     service={"tcp_idle": "1s"})
    client = tcpclient(balancer.address, receive_buffer=4096)
    client.socket.settimeout(0.1)
    data = frame(*(wire.query(ident=number) for number in range(1000)))
    sent = 0
    with pytest.raises(OSError):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                sent += client.socket.send(data)
            except TimeoutError:
                pass
    balancer.wait_tcp("closed", {"unread": 1})
    tcpclient(balancer.address).ask(GOOD)
    assert balancer.tcp()["queries"] < 1000


def test_client_that_may_not_ask(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    server = tcpserver()
    balancer = start([server.address], admit={"query": ["127.0.0.2/32"]})
    stranger = tcpclient(balancer.address, "127.0.0.3")
    stranger.say(GOOD)
    stranger.wait_closed()
    tcpclient(balancer.address, "127.0.0.2").ask(GOOD)
    balancer.wait_tcp("dropped", {"not_admitted": 1})
    balancer.wait_tcp("closed", {"not_admitted": 1})
    assert len(server.asked) == 1


@pytest.mark.parametrize("data", [
    wire.query("zone.example", "AXFR"),
    wire.query("zone.example", "IXFR"),
    wire.query("zone.example", "SOA", opcode="UPDATE"),
    wire.query("zone.example", "SOA", opcode="NOTIFY"),
], ids=["AXFR", "IXFR", "UPDATE", "NOTIFY"])
def test_not_admitted_is_refused(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient, data: bytes
) -> None:
    """By default nobody may transfer, update or notify; the connection goes on."""
    server = tcpserver()
    balancer = start([server.address])
    client = tcpclient(balancer.address)
    answer = client.ask(data)
    assert wire.rcode(answer) == wire.RCODES["REFUSED"]
    assert wire.flags(answer) & 0x7800 == wire.flags(data) & 0x7800
    client.ask(GOOD)
    assert balancer.tcp_told("dropped") == {"not_admitted": 1}
    assert server.messages == [GOOD]


def test_ten_thousand_refusals(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """Answers of our own are bounded as well: a client that reads them late gets them all."""
    balancer = start([tcpserver().address])
    client = tcpclient(balancer.address)
    data = frame(*(wire.query("zone.example", "AXFR", ident=number) for number in range(10_000)))
    client.socket.settimeout(0.2)
    sent, got = 0, 0
    deadline = time.monotonic() + 60
    while got < len(data) and time.monotonic() < deadline:
        try:
            if sent < len(data):
                sent += client.socket.send(data[sent:])
        except TimeoutError:
            pass
        try:
            got += len(client.socket.recv(1 << 20))
        except TimeoutError:
            pass
    assert got == len(data), "a refusal is as long as the query"
    balancer.wait_tcp("dropped", {"not_admitted": 10_000})


def test_connections_that_come_and_go(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """Closed, half closed, reset, with and without queries: at the end nothing is left."""
    balancer = start([tcpserver().address])
    for number in range(200):
        client = TcpClient(balancer.address)
        if number % 3:
            client.say(GOOD)
        if number % 4 == 1:
            client.half_close()
        if number % 5 == 2:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    wait_for("all gone", lambda: balancer.tcp()["open"] == 0)
    tcp = balancer.wait_idle()["tcp"]
    assert tcp["connections"] == sum(tcp["closed"].values()) == 200


def test_descriptors_run_out(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """Idle clients make room when the process may have no more descriptors."""
    server = tcpserver()
    balancer = start([server.address], prefix=["prlimit", "--nofile=120:120"], service={"tcp_per_client": 1000})
    clients = [TcpClient(balancer.address) for _ in range(200)]
    wait_for("evicted", lambda: balancer.tcp_told("closed").get("evicted", 0) > 50)
    assert wire.rcode(clients[-1].ask(GOOD)) == 0
    for client in clients:
        client.close()


def test_limits_change_with_a_reload(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    balancer = start([tcpserver().address])
    client = tcpclient(balancer.address)
    client.ask(GOOD)
    balancer.reload(service={"tcp_idle": "300ms"})
    client.wait_closed()
    balancer.wait_tcp("closed", {"idle": 1})


def test_server_removed_by_a_reload(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """What it has pending is still answered; its warm connections are closed; another takes over."""
    old, new = tcpserver(silent), tcpserver()
    balancer = start([old.address], service={"retry": "off"})
    client, late = tcpclient(balancer.address), tcpclient(balancer.address)
    late.say(wire.query(ident=5))
    pending = old.wait(1)[0]
    old.handler = Asked.answer
    client.ask(GOOD)
    balancer.reload(servers=[new.address])
    client.ask(wire.query(ident=2))
    assert len(new.asked) == 1
    pending.answer()
    assert wire.ident(late.hear()) == 5
    wait_for("closed", lambda: old.open_connections() == 0)
