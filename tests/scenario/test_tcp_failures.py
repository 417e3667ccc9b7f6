"""Servers that refuse, reset, close, stay silent or lie: no query over TCP is lost, and none is answered twice."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

import pytest

from tests.conftest import OpenTcpClient, StartBalancer, StartTcpServer
from tests.helpers import wire
from tests.helpers.client import edns_query
from tests.helpers.config import Server
from tests.helpers.ports import address, free_address, free_port
from tests.helpers.tcp import (
    Asked,
    TcpClient,
    TcpHandler,
    answering,
    closing,
    frame,
    resetting,
    silent,
)
from tests.helpers.waiting import wait_for

SERVFAIL = wire.RCODES["SERVFAIL"]


def numbered(count: int) -> list[bytes]:
    return [wire.query(f"n{number}.example", ident=number) for number in range(count)]


def half_a_message(asked: Asked) -> None:
    asked.connection.say_raw(frame(wire.answer(asked.data, wire.address_record()))[:20])
    asked.connection.close()


BAD = {"closes": closing, "resets": resetting, "stops in the middle": half_a_message, "is silent": silent}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_another_server_answers(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient, bad: TcpHandler
) -> None:
    """Whatever one of two servers does, every query is answered, and the client's connection stays."""
    broken, good = tcpserver(bad), tcpserver()
    balancer = start([broken.address, good.address], scheduler="rr", service={"tcp_timeout": "500ms"})
    client, asked = tcpclient(balancer.address), numbered(12)
    for data in asked[:4]:
        assert client.ask(data) == wire.answer(data, wire.address_record())
    client.say(*asked[4:])
    answers = client.hear_all(8)
    assert sorted(answers) == sorted(wire.answer(data, wire.address_record()) for data in asked[4:])
    assert broken.asked, "the bad one was asked, too"
    assert balancer.tcp_server(1)["resends"] > 0


def refusing(asked: Asked) -> None:
    asked.answer(code="REFUSED")


def test_a_server_that_lost_its_zones_is_not_believed(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """Pipelined queries are answered by the other one; with retry_rcodes empty the first answer counts."""
    lost, good = tcpserver(refusing), tcpserver()
    balancer = start([lost.address, good.address], scheduler="rr")
    for data in numbered(6):
        with TcpClient(balancer.address) as client:
            assert client.ask(data) == wire.answer(data, wire.address_record())
    client = tcpclient(balancer.address)
    client.say(*numbered(6))
    assert sorted(client.hear_all(6)) == sorted(wire.answer(data, wire.address_record()) for data in numbered(6))
    assert lost.asked
    balancer.wait_tcp("closed", {"client": 6})
    assert balancer.wait_idle()["tcp"]["answers"] == 12
    balancer.reload(service={"retry_rcodes": []})
    others = [tcpclient(balancer.address) for _ in range(2)]
    assert sorted(wire.rcode(other.ask(wire.query())) for other in others) == [0, wire.RCODES["REFUSED"]]


@pytest.mark.parametrize("other", BAD.values(), ids=BAD.keys())
def test_a_doubted_answer_is_relayed_when_no_better_one_comes(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient, other: TcpHandler
) -> None:
    balancer = start([tcpserver(refusing).address, tcpserver(other).address], service={"tcp_timeout": "1s"},
                     scheduler="rr")
    for data in numbered(4):
        with TcpClient(balancer.address) as client:
            assert wire.rcode(client.ask(data)) == wire.RCODES["REFUSED"]
    assert balancer.wait_idle()["tcp"]["answers"] == 4
    assert balancer.tcp_told("dropped") == {}


def test_refused_connection(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    good = tcpserver()
    balancer = start([free_address(), good.address], scheduler="rr")
    for data in numbered(10):
        with TcpClient(balancer.address) as client:
            assert client.ask(data) == wire.answer(data, wire.address_record())
    assert balancer.tcp_server(0)["failures"] > 0
    assert balancer.tcp_told("dropped") == {}


@pytest.mark.parametrize("bad", [closing, resetting, silent])
def test_both_fail(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient, bad: TcpHandler
) -> None:
    """At most two servers per query, then SERVFAIL each, with an OPT if it had one; then it goes on."""
    servers = [tcpserver(bad) for _ in range(3)]
    balancer = start([server.address for server in servers], service={"tcp_timeout": "300ms"})
    client = tcpclient(balancer.address)
    plain, edns = wire.query("plain.example", ident=1), edns_query("edns.example", want_dnssec=True)
    client.say(plain, edns)
    answers = {wire.ident(answer): answer for answer in client.hear_all(2)}
    assert {wire.rcode(answer) for answer in answers.values()} == {SERVFAIL}
    assert answers[1] == wire.answer(plain, flags_set=wire.QR, code="SERVFAIL")
    assert answers[wire.ident(edns)][-11:] == b"\0\0\x29\x04\xd0\0\0\x80\0\0\0"
    asked = sum(len(server.asked) for server in servers)
    assert asked == 4 if bad is silent else 2 <= asked <= 4, "one that closes may not have read the second query"
    for server in servers:
        server.handler = answering
    assert wire.rcode(client.ask(wire.query(ident=2))) == 0
    service = balancer.wait_idle()["tcp"]
    assert service["timeouts"] + service["dropped"]["unsent"] == 2
    assert service["timeouts"] == (2 if bad is silent else 0)


def test_a_query_that_ends_its_servers_is_named(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """Two of three die of it, nobody else; who asks for something else is answered by the third."""
    def deadly(asked: Asked) -> None:
        if wire.qname(asked.data) != "killer.example":
            asked.answer()
            return
        dead.append(asked)
        next(server for server in servers if asked.connection in server.connections).kill()

    dead: list[Asked] = []
    servers = [tcpserver(deadly) for _ in range(3)]
    balancer = start([server.address for server in servers])
    client = tcpclient(balancer.address)
    assert wire.rcode(client.ask(wire.query("killer.example", ident=1))) == SERVFAIL
    for data in numbered(10):
        assert wire.rcode(client.ask(data)) == 0
    assert len(dead) == 2
    wait_for("it is named", lambda: "a query: killer.example. type 1 from 127.0.0.1" in balancer.output())


def test_all_refuse(start: StartBalancer, tcpclient: OpenTcpClient) -> None:
    balancer = start([free_address(), free_address()], service={"tcp_timeout": "300ms"})
    client = tcpclient(balancer.address)
    for data in numbered(3):
        assert client.ask(data) == wire.answer(data, flags_set=wire.QR, code="SERVFAIL")
    assert balancer.tcp_told("dropped") == {"unsent": 3}


def test_no_server_may_be_chosen(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    balancer = start([Server(tcpserver().address, weight=0)])
    client = tcpclient(balancer.address)
    for data in numbered(2):
        assert client.ask(data) == wire.answer(data, flags_set=wire.QR, code="SERVFAIL")
    assert balancer.tcp_told("dropped") == {"no_server": 2}


def test_idle_connection_closed_by_the_server(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """A warm connection that its server closes is no failure, whether noticed before or after it is used."""
    server = tcpserver()
    balancer = start([server.address])
    client = tcpclient(balancer.address)
    for number in range(20):
        data = wire.query(ident=number)
        assert client.ask(data) == wire.answer(data, wire.address_record())
        server.connections[-1].close()
    assert balancer.tcp_server()["failures"] == 0
    assert balancer.tcp_told("dropped") == {}


def test_server_that_closes_after_each_answer(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    def one_only(asked: Asked) -> None:
        asked.answer()
        asked.connection.close()

    balancer = start([tcpserver(one_only).address, tcpserver(one_only).address])
    client = tcpclient(balancer.address)
    for data in numbered(50):
        assert client.ask(data) == wire.answer(data, wire.address_record())
    assert balancer.tcp_told("dropped") == {}


def test_connection_lost_between_answers(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """Two are answered, the third is lost with the connection: it alone is asked again."""
    first, second = tcpserver(silent), tcpserver()
    balancer = start([Server(first.address, weight=9), second.address])
    client, asked = tcpclient(balancer.address), numbered(3)
    client.say(*asked)
    seen = first.wait(3)
    seen[0].answer()
    seen[1].answer()
    seen[2].connection.close()
    assert client.hear_all(3) == [wire.answer(data, wire.address_record()) for data in asked]
    assert second.messages == asked[2:]


def test_update_is_never_sent_twice(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    servers = [tcpserver(closing), tcpserver(closing)]
    admit = {"update": ["127.0.0.0/8"]}
    balancer = start([server.address for server in servers], admit=admit)
    client = tcpclient(balancer.address)
    data = wire.query("zone.example", "SOA", opcode="UPDATE")
    assert wire.rcode(client.ask(data)) == SERVFAIL
    assert sum(len(server.asked) for server in servers) == 1
    assert balancer.tcp_told("dropped") == {"unsent": 1}


def test_update_refused_before_it_was_sent(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """A connection that never came about has carried nothing: another server may have it."""
    good = tcpserver()
    balancer = start([Server(free_address(), weight=9), good.address], admit={"update": ["127.0.0.0/8"]})
    for number in range(5):
        with TcpClient(balancer.address) as client:
            client.ask(wire.query("zone.example", "SOA", opcode="UPDATE", ident=number))
    assert len(good.asked) == 5


def test_answer_after_the_timeout_reaches_nobody(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    server = tcpserver(silent)
    balancer = start([server.address], service={"tcp_timeout": "200ms"})
    client, data = tcpclient(balancer.address), wire.query()
    assert wire.rcode(client.ask(data)) == SERVFAIL
    for asked in server.asked:
        with contextlib.suppress(OSError):
            asked.answer()
    client.nothing_comes()
    server.handler = answering
    other = wire.query("other.example")
    assert client.ask(other) == wire.answer(other, wire.address_record())


def test_client_gone_with_queries_pending(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """Its connection toward the server is closed: late answers never reach another client."""
    server = tcpserver(silent)
    balancer = start([server.address])
    with TcpClient(balancer.address) as gone:
        gone.say(*numbered(5))
        pending = server.wait(5)
        gone.reset()
    wait_for("counted", lambda: balancer.tcp_told("dropped") == {"client_gone": 5})
    another = tcpclient(balancer.address)
    another.say(wire.query("other.example", ident=3))
    theirs = server.wait(6)[5]
    assert theirs.connection is not pending[0].connection
    for asked in pending:
        with contextlib.suppress(OSError):
            asked.answer()
    another.nothing_comes()
    theirs.answer()
    assert wire.qname(another.hear()) == "other.example"


def lies(make: Callable[[Asked], list[bytes]]) -> TcpHandler:
    """Say what `make` makes, then the true answer."""

    def handle(asked: Asked) -> None:
        asked.connection.say(*make(asked))
        asked.answer()

    return handle


def true_twice(asked: Asked) -> None:
    asked.answer()
    asked.answer()


OTHER = wire.query("other.example", ident=999)


def with_its_id(data: bytes, asked: Asked) -> list[bytes]:
    return [wire.with_id(data, wire.ident(asked.data))]


LIES: dict[str, tuple[TcpHandler, str]] = {
    "unasked id": (
        lies(lambda asked: [wire.with_id(wire.answer(asked.data), wire.ident(asked.data) ^ 1)]),
        "unknown_id",
    ),
    "wrong question": (lies(lambda asked: with_its_id(wire.answer(OTHER), asked)), "wrong_question"),
    "a query": (lies(lambda asked: [asked.data]), "not_response"),
    "NOERROR without a question": (
        lies(lambda asked: [wire.header_only(asked.data, "NOERROR")]),
        "wrong_question",
    ),
    "garbage": (lies(lambda asked: [b"\xff" * 40]), "unknown_id"),
    "twice the same": (true_twice, "unknown_id"),
}


@pytest.mark.parametrize(("handler", "reason"), LIES.values(), ids=LIES.keys())
def test_lies_are_not_passed_on(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient, handler: TcpHandler, reason: str
) -> None:
    """The true answer still comes; the connection that lied serves nobody else."""
    server = tcpserver(handler)
    balancer = start([server.address])
    for data in numbered(4):
        with TcpClient(balancer.address) as client:
            assert client.ask(data) == wire.answer(data, wire.address_record())
            client.nothing_comes(0.02)
    wait_for("counted", lambda: balancer.tcp_server()["ignored"][reason] == 4)
    assert len(server.connections) == 4


def test_short_answer(start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient) -> None:
    """Less than a header: nothing on that connection can be trusted, the query goes elsewhere."""
    broken, good = tcpserver(lambda asked: asked.connection.say(b"short")), tcpserver()
    balancer = start([broken.address, good.address], scheduler="rr")
    client = tcpclient(balancer.address)
    for data in numbered(4):
        assert client.ask(data) == wire.answer(data, wire.address_record())
    assert balancer.tcp_server(0)["ignored"]["short"] > 0


def test_word_on_an_idle_connection(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """Nobody asked: it is closed, and the next client does not get it."""
    server = tcpserver()
    balancer = start([server.address])
    client = tcpclient(balancer.address)
    client.ask(wire.query(ident=1))
    wait_for("idle", lambda: balancer.tcp_server()["idle"] == 1)
    server.connections[0].say(wire.answer(wire.query("evil.example", ident=2)))
    wait_for("closed", lambda: balancer.tcp_server()["open"] == 0)
    data = wire.query(ident=2)
    assert client.ask(data) == wire.answer(data, wire.address_record())
    assert balancer.tcp_server()["ignored"]["unknown_id"] == 1


def test_server_killed_under_load(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """50 clients, 4 queries each interleaved, one of two servers dies: nothing is lost."""
    dying, living = tcpserver(), tcpserver()
    balancer = start([dying.address, living.address], workers=2)
    clients = [tcpclient(balancer.address) for _ in range(50)]
    for turn in range(10):
        for number in range(4):
            for client in clients:
                client.say(wire.query(f"t{turn}n{number}.example", ident=turn * 4 + number))
        if turn == 4:
            dying.kill()
        for client in clients:
            answers = client.hear_all(4)
            assert {wire.ident(answer) for answer in answers} == {turn * 4 + number for number in range(4)}
            assert {wire.rcode(answer) for answer in answers} == {0}
    assert balancer.tcp_told("dropped") == {}


def test_server_comes_back(start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient) -> None:
    server = tcpserver()
    balancer = start([server.address])
    client = tcpclient(balancer.address)
    client.ask(wire.query(ident=1))
    server.kill()
    assert wire.rcode(client.ask(wire.query(ident=2))) == SERVFAIL
    server.listen()
    assert wire.rcode(client.ask(wire.query(ident=3))) == 0


def test_server_that_comes_back_grows_into_its_share(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """As over UDP; that TCP alone was gone makes no difference."""
    away, good = tcpserver(), tcpserver()
    balancer = start([away.address, good.address], slow_start="4s")
    client = tcpclient(balancer.address)

    def share(count: int) -> float:
        before = len(away.asked)
        for number in range(count):
            assert wire.rcode(client.ask(wire.query(ident=number))) == 0
        return (len(away.asked) - before) / count

    assert share(20) == 0.5
    away.kill()
    wait_for("it is seen", lambda: share(4) == 0 and balancer.tcp_server()["failures"])
    time.sleep(0.5)
    away.listen()
    wait_for("it is back", lambda: share(1) == 1)
    early = share(50)
    assert early <= 0.4, early
    wait_for("grown", lambda: share(40) >= 0.45, 30)


def test_connections_toward_a_server_are_limited(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """Beyond tcp_connections a query waits for one that comes free, a second at most; then SERVFAIL."""
    server = tcpserver(silent)
    balancer = start([Server(server.address, tcp_connections=2)], service={"tcp_timeout": "20s"})
    clients = [tcpclient(balancer.address) for _ in range(4)]
    for number, client in enumerate(clients):
        client.say(wire.query(ident=number))
    first, second = server.wait(2)
    first.answer()
    assert len(server.wait(3)) == 3, "the one that waited has got the connection that came free"
    started = time.monotonic()
    waited = [client for number, client in enumerate(clients) if number not in
              {wire.ident(asked.data) for asked in server.asked}]
    assert wire.rcode(waited[0].hear()) == SERVFAIL
    assert time.monotonic() - started < 5
    assert balancer.tcp_told("dropped") == {"no_connection": 1}
    assert len(server.connections) == 2
    second.answer()
    server.asked[2].answer()
    assert wire.rcode(clients[wire.ident(second.data)].hear()) == 0


def test_full_server_leaves_it_to_another(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    full, other = tcpserver(silent), tcpserver()
    servers = [Server(full.address, weight=100, tcp_connections=1), other.address]
    balancer = start(servers, service={"tcp_timeout": "20s"})
    for number in range(5):
        tcpclient(balancer.address).say(wire.query(ident=number))
    other.wait(4)
    assert len(full.asked) == 1
    full.answer_all(full.asked)


def test_blackholed_server(start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient) -> None:
    """A server that does not even answer the handshake: half of tcp_timeout, then another."""
    good, hole = tcpserver(), ("127.0.0.1", free_port())
    with socket.socket() as stuffed:
        stuffed.bind(hole)
        stuffed.listen(0)  # a listener whose queue is full answers no handshake
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(hole)
            fillers.append(filler)
        servers = [address(*hole), good.address]
        balancer = start(servers, scheduler="rr", service={"tcp_timeout": "600ms"})
        client = tcpclient(balancer.address)
        for data in numbered(4):
            assert client.ask(data) == wire.answer(data, wire.address_record())
        for filler in fillers:
            filler.close()
