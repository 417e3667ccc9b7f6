"""DNS over TCP: queries and answers as they are, in any order, and nobody's to anybody else (RFC 7766)."""

from __future__ import annotations

import random
import struct
import time

import pytest

from tests.conftest import OpenTcpClient, StartBalancer, StartTcpServer
from tests.helpers import wire
from tests.helpers.client import edns_query
from tests.helpers.config import Server
from tests.helpers.daemon import Balancer
from tests.helpers.ports import free_address
from tests.helpers.tcp import Asked, TcpClient, frame, silent
from tests.helpers.waiting import wait_for


def numbered(count: int) -> list[bytes]:
    return [wire.query(f"n{number}.example", ident=number) for number in range(count)]


def answers(asked: list[bytes]) -> list[bytes]:
    return [wire.answer(data, wire.address_record()) for data in asked]


QUERIES = {
    "plain": wire.query(),
    "mixed case": wire.query("wWw.ExAmPlE"),
    "no question": wire.header(7, wire.RD, (0, 0, 0, 0)),
    "two questions": wire.header(7, wire.RD, (2, 0, 0, 0)) + wire.question() + wire.question("b.example"),
    "opcode 6 (DSO)": wire.header(7, 6 << 11, (0, 0, 0, 0)) + b"\0\x01\0\x02\0\0",
    "trailing bytes": wire.query() + b"trailing bytes",
    "question cut off": wire.header(7) + b"\x03www\x07exa",
    "keepalive (RFC 7828)": edns_query(options=[(11, b"")]),
    "unknown option": edns_query(options=[(65001, b"anything at all")]),
    "9000 bytes": edns_query(options=[(65001, bytes(9000))]),
    "longest": wire.query() + bytes(65535 - len(wire.query())),
}


@pytest.mark.parametrize("data", QUERIES.values(), ids=QUERIES.keys())
def test_query_and_answer_pass_unchanged(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient, data: bytes
) -> None:
    """… id and all; here the answer is the query with QR set, with a keepalive of its own."""

    def echo(asked: Asked) -> None:
        flags = wire.flags(asked.data) | wire.QR
        asked.connection.say(asked.data[:2] + flags.to_bytes(2, "big") + asked.data[4:])

    server = tcpserver(echo)
    balancer = start([server.address])
    flags = wire.flags(data) | wire.QR
    assert tcpclient(balancer.address).ask(data) == data[:2] + flags.to_bytes(2, "big") + data[4:]
    assert server.messages == [data]


@pytest.mark.parametrize("size", [512, 4096, 16384, 16385, 65535])
def test_large_answer(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient, size: int
) -> None:
    made: list[bytes] = []

    def large(asked: Asked) -> None:
        made.append(wire.sized_answer(asked.data, size))
        asked.connection.say(made[-1])

    balancer = start([tcpserver(large).address])
    assert tcpclient(balancer.address).ask(wire.query()) == made[0]


def test_one_message_byte_by_byte(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    server = tcpserver()
    balancer = start([server.address])
    client, data = tcpclient(balancer.address), wire.query()
    for byte in frame(data):
        client.say_raw(bytes([byte]))
        time.sleep(0.001)
    assert client.hear() == wire.answer(data, wire.address_record())


def test_answer_byte_by_byte(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    def dripping(asked: Asked) -> None:
        for byte in frame(wire.answer(asked.data, wire.address_record())):
            asked.connection.say_raw(bytes([byte]))
            time.sleep(0.001)

    balancer = start([tcpserver(dripping).address])
    client, data = tcpclient(balancer.address), wire.query()
    assert client.ask(data) == wire.answer(data, wire.address_record())
    assert client.ask(data) == wire.answer(data, wire.address_record())


def test_hundred_messages_in_one_segment(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    balancer = start([tcpserver().address])
    client, asked = tcpclient(balancer.address), numbered(100)
    client.say(*asked)
    assert sorted(client.hear_all(100)) == sorted(answers(asked))


def test_hundred_queries_one_after_another(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    server = tcpserver()
    balancer = start([server.address])
    client = tcpclient(balancer.address)
    for data in numbered(101):
        assert client.ask(data) == wire.answer(data, wire.address_record())
    assert len(server.connections) == 1, "one warm connection does it all"


def test_answers_in_reverse(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    server = tcpserver(silent)
    balancer = start([server.address])
    client, asked = tcpclient(balancer.address), numbered(50)
    client.say(*asked)
    server.answer_all(reversed(server.wait(50)))
    assert client.hear_all(50) == answers(asked)[::-1]


def test_one_slow_query_holds_up_nobody(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    server = tcpserver(lambda asked: None if wire.ident(asked.data) == 2 else asked.answer())
    balancer = start([server.address])
    client, asked = tcpclient(balancer.address), numbered(5)
    client.say(*asked)
    assert [wire.ident(answer) for answer in client.hear_all(4)] == [0, 1, 3, 4]
    server.answer_all(one for one in server.wait(5) if wire.ident(one.data) == 2)
    assert client.hear() == answers(asked)[2]


def test_ten_thousand_queries_in_one_burst(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """More than may be pending wait in the sockets; all are answered, and memory stays."""
    server = tcpserver()
    balancer = start([server.address])
    client = tcpclient(balancer.address)
    client.ask(wire.query())
    before = resident(balancer)
    asked = numbered(10_000)
    data, sent, got = frame(*asked), 0, b""
    client.socket.settimeout(0.01)
    total = len(frame(*answers(asked)))
    deadline = time.monotonic() + 60
    while len(got) < total:
        assert time.monotonic() < deadline, f"{len(got)} of {total} bytes"
        if sent < len(data):
            try:
                sent += client.socket.send(data[sent : sent + 65536])
            except TimeoutError:
                pass
        try:
            got += client.socket.recv(65536)
        except TimeoutError:
            pass
    found, at = [], 0
    while at < len(got):
        length = struct.unpack("!H", got[at : at + 2])[0]
        found.append(wire.ident(got[at + 2 : at + 4]))
        at += 2 + length
    assert sorted(found) == sorted(number & 0xFFFF for number in range(10_000))
    assert resident(balancer) - before < 8 << 20


def resident(balancer: Balancer) -> int:
    total = 0
    for pid in balancer.workers():
        with open(f"/proc/{pid}/status") as lines:
            total += next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
    return total


def test_same_id_twice_at_once(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """Different questions under one id, answered in reverse: each answer comes once."""
    server = tcpserver(silent)
    balancer = start([server.address])
    client = tcpclient(balancer.address)
    asked = [wire.query(name, ident=7) for name in ("a.example", "b.example", "a.example")]
    client.say(*asked)
    server.answer_all(reversed(server.wait(3)))
    assert sorted(client.hear_all(3)) == sorted(answers(asked))
    client.nothing_comes(0.05)
    assert balancer.tcp_server()["ignored"]["unknown_id"] == 0


def test_same_id_from_two_clients(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    server = tcpserver(silent)
    balancer = start([server.address])
    one, other = tcpclient(balancer.address), tcpclient(balancer.address)
    data = wire.query(ident=4711)
    one.say(data)
    first = server.wait(1)[0]
    other.say(data)
    second = server.wait(2)[1]
    assert first.connection is not second.connection
    second.connection.say(wire.answer(data, wire.address_record("192.0.2.2")))
    first.connection.say(wire.answer(data, wire.address_record("192.0.2.1")))
    assert one.hear() == wire.answer(data, wire.address_record("192.0.2.1"))
    assert other.hear() == wire.answer(data, wire.address_record("192.0.2.2"))


def test_connections_are_used_again(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """A connection of its own for each client, one toward the server for all of them in turn."""
    server = tcpserver()
    balancer = start([server.address])
    for data in numbered(20):
        with TcpClient(balancer.address) as client:
            client.ask(data)
    assert len(server.connections) == 1
    wait_for("idle", lambda: balancer.tcp_server()["idle"] == 1)
    assert balancer.tcp_server()["open"] == 1


def test_idle_client_holds_no_server_connection(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    server = tcpserver()
    balancer = start([server.address])
    clients = [tcpclient(balancer.address) for _ in range(30)]
    for client, data in zip(clients, numbered(30), strict=True):
        client.ask(data)
    assert len(server.connections) == 1
    assert balancer.tcp()["open"] == 30


def test_fifty_clients_with_four_queries_each(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    servers = [tcpserver(), tcpserver()]
    balancer = start([server.address for server in servers], workers=2)
    clients = [tcpclient(balancer.address) for _ in range(50)]
    asked = [wire.query(f"n{number}.example", ident=number) for number in range(200)]
    order = list(range(200))
    random.shuffle(order)
    for number in order:
        clients[number % 50].say(asked[number])
    for place, client in enumerate(clients):
        mine = {number for number in range(200) if number % 50 == place}
        assert {wire.ident(answer) for answer in client.hear_all(4)} == mine
    assert min(len(server.asked) for server in servers) > 0


def test_clients_that_never_pause_go_on_at_a_server_with_less_to_do(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """They hold their connections toward the old server all the time, and a new one gets its share of them yet."""
    old, new = tcpserver(silent), tcpserver(silent)
    balancer = start([old.address], service={"retry": "off"})
    clients = [tcpclient(balancer.address) for _ in range(4)]

    def say(client: TcpClient, data: bytes) -> None:
        before = len(old.asked) + len(new.asked)
        client.say(data)
        wait_for("it is asked", lambda: len(old.asked) + len(new.asked) > before)
        time.sleep(0.02)        # one client at a time is moved

    first, second = numbered(2)
    for client in clients:
        say(client, first)
    balancer.reload(servers=[old.address, new.address], service={"retry": "off"})
    for client in clients:
        say(client, second)
    assert (len(old.asked), len(new.asked)) == (5, 3)
    for server in (old, new):
        server.answer_all(list(server.asked))
    for client in clients:
        assert {wire.ident(answer) for answer in client.hear_all(2)} == {0, 1}
    assert balancer.wait_idle()["tcp"]["answers"] == 8
    wait_for("all are free again", lambda: [balancer.tcp_server(number)["idle"] for number in range(2)] == [4, 3])


def test_half_closed_client_gets_what_is_pending(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    server = tcpserver(silent)
    balancer = start([server.address])
    client, asked = tcpclient(balancer.address), numbered(3)
    client.say(*asked)
    client.half_close()
    server.answer_all(server.wait(3))
    assert client.hear_all(3) == answers(asked)
    client.wait_closed()
    balancer.wait_tcp("closed", {"client": 1})


def test_query_and_half_close_in_one(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    balancer = start([tcpserver().address])
    client, data = tcpclient(balancer.address), wire.query()
    client.say(data)
    client.half_close()
    assert client.hear() == answers([data])[0]
    client.wait_closed()


def test_udp_and_tcp_count_as_load_alike(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """wlc: while one server has a query over TCP outstanding, the other one takes the next."""
    servers = [tcpserver(silent), tcpserver(silent)]
    balancer = start([server.address for server in servers], service={"retry": "off"})
    for number in range(10):
        tcpclient(balancer.address).say(wire.query(ident=number))
        wait_for("sent", lambda number=number: sum(len(one.asked) for one in servers) == number + 1)  # type: ignore[misc]
    assert [len(server.asked) for server in servers] == [5, 5]
    assert [server["inflight"] for server in balancer.service()["servers"]] == [5, 5]
    for server in servers:
        server.answer_all(server.asked)


def test_stop_with_clients_connected(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """Idle ones are closed, what is pending is answered first, the end does not wait for clients."""
    server = tcpserver(lambda asked: None if wire.ident(asked.data) == 9 else asked.answer())
    balancer = start([server.address])
    idle, busy = tcpclient(balancer.address), tcpclient(balancer.address)
    idle.ask(wire.query(ident=1))
    busy.say(wire.query(ident=9))
    pending = server.wait(2)[1]
    balancer.terminate()
    idle.wait_closed()
    busy.nothing_comes(0.1)
    pending.answer()
    assert wire.ident(busy.hear()) == 9
    busy.wait_closed()
    balancer.wait_ended()


def test_killed_worker(start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient) -> None:
    """Its connections are gone, which the counters tell; the successor serves."""
    server = tcpserver(lambda asked: None if wire.ident(asked.data) == 9 else asked.answer())
    balancer = start([server.address])
    client = tcpclient(balancer.address)
    client.say(wire.query(ident=9))
    server.wait(1)
    balancer.kill_worker()
    client.wait_closed()
    with TcpClient(balancer.address) as another:
        another.ask(wire.query(ident=1))
    balancer.wait_tcp("dropped", {"worker_lost": 1})
    wait_for("closed", lambda: balancer.tcp_told("closed").get("worker_lost") == 1)
    assert balancer.server()["inflight"] == 0


def test_status_shows_tcp_beside_udp(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    balancer = start([tcpserver().address])
    tcpclient(balancer.address).ask(wire.query())
    shown = balancer.command("status").stdout.splitlines()
    assert [line[:4] for line in shown if line.startswith(("UDP", "TCP"))] == ["UDP ", "TCP "]
    assert "1 queries, 1 answers" in next(line for line in shown if line.startswith("TCP"))


def test_over_ipv6(start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient) -> None:
    """A client there is a /64: its addresses share the limit."""
    server = tcpserver(host="::1")
    balancer = start([server.address], [free_address("::1")], service={"tcp_per_client": 2})
    clients = [tcpclient(balancer.address) for _ in range(2)]
    for client, data in zip(clients, numbered(2), strict=True):
        assert client.ask(data) == wire.answer(data, wire.address_record())
    tcpclient(balancer.address).wait_closed()
    balancer.wait_tcp("closed", {"per_client": 1})


def test_source_address(start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient) -> None:
    server = tcpserver()
    balancer = start([Server(server.address, source="127.0.0.5")])
    tcpclient(balancer.address).ask(wire.query())
    assert server.connections[0].socket.getpeername()[0] == "127.0.0.5"


def test_stop_during_a_transfer_that_nobody_reads(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """The end waits for nobody who takes nothing."""

    def endless(asked: Asked) -> None:
        while True:
            asked.connection.say(wire.sized_answer(asked.data, 60000))

    balancer = start([tcpserver(endless).address], admit={"transfer": ["0.0.0.0/0"]})
    tcpclient(balancer.address, receive_buffer=4096).say(wire.query("zone.example", "AXFR"))
    wait_for("begun", lambda: balancer.tcp()["answers"] == 1)
    balancer.terminate()
    balancer.wait_ended()
