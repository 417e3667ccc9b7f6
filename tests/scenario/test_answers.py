"""What a server, or somebody in its name, says wrongly: ignored and counted; the true answer still counts."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import OpenClient, StartBalancer, StartServer
from tests.helpers import wire
from tests.helpers.config import Server
from tests.helpers.daemon import Balancer
from tests.helpers.nameserver import NameServer, Received, Reply, delayed, echo, silent
from tests.helpers.waiting import wait_for


def other_id(data: bytes) -> bytes:
    return wire.with_id(wire.answer(data), wire.ident(data) ^ 0x5555)


def other_question(**change: object) -> Callable[[bytes], bytes]:
    def make(data: bytes) -> bytes:
        asked = {"qname": "www.example", "qtype": "A", "qclass": 1, **change}
        return wire.answer(wire.header(wire.ident(data)) + wire.question(**asked), wire.address_record())  # type: ignore[arg-type]

    return make


FALSE: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "0 bytes": ("short", lambda data: b""),
    "11 bytes": ("short", lambda data: wire.answer(data)[:11]),
    "QR=0": ("not_response", lambda data: data),
    "unknown id": ("unknown_id", other_id),
    "other name": ("wrong_question", other_question(qname="wwx.example")),
    "longer name": ("wrong_question", other_question(qname="www.example.net")),
    "other type": ("wrong_question", other_question(qtype="AAAA")),
    "other class": ("wrong_question", other_question(qclass=3)),
    "question cut off": ("wrong_question", lambda data: wire.answer(data)[:-1]),
    "case differs outside letters": ("wrong_question", other_question(qname="www[example")),
    "header-only NOERROR": ("wrong_question", lambda data: wire.header_only(data, "NOERROR")),
    "header-only NXDOMAIN": ("wrong_question", lambda data: wire.header_only(data, "NXDOMAIN")),
    "QDCOUNT 1, no question": ("wrong_question", lambda data: wire.answer(data, code="SERVFAIL")[:12]),
    "two questions": (
        "wrong_question",
        lambda data: wire.header(wire.ident(data), wire.QR, (2, 0, 0, 0)) + wire.question() * 2,
    ),
}


@pytest.fixture(scope="module")
def server() -> Iterator[NameServer]:
    with NameServer() as server:
        yield server


@pytest.fixture(scope="module")
def running(server: NameServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    """One balancer for the false answers; a long udp_timeout, so that waiting never makes an answer late."""
    with Balancer(tmp_path_factory.mktemp("answers"), [server.address], udp_timeout="20s") as balancer:
        yield balancer


@pytest.mark.parametrize(("reason", "make"), FALSE.values(), ids=FALSE.keys())
def test_false_answer_is_ignored_and_the_true_one_delivered(
    running: Balancer,
    server: NameServer,
    client: OpenClient,
    reason: str,
    make: Callable[[bytes], bytes],
) -> None:
    server.handler = silent
    server.received.clear()
    one = client(running.address)
    data = wire.query("www.example")
    before = running.server()["ignored"]
    one.send(data)
    (received,) = server.wait(1)
    server.answer_all([received], make)
    wait_for("the false answer read", lambda: sum(running.ignored().values()) > sum(before.values()))
    after = running.server()["ignored"]
    assert {key: after[key] - before[key] for key in after if after[key] != before[key]} == {reason: 1}
    server.answer_all([received])
    assert one.receive() == wire.answer(data, wire.address_record())
    one.nothing_comes(0.02)


def test_second_answer_is_ignored(running: Balancer, server: NameServer, client: OpenClient) -> None:
    """The first true answer counts; its repetition belongs to nothing in flight."""
    server.handler = lambda received: [*echo(received), *echo(received)]
    before = sum(running.ignored().values())
    one = client(running.address)
    one.ask(wire.query())
    wait_for("the second answer counted", lambda: sum(running.ignored().values()) == before + 1)
    one.nothing_comes(0.02)


def test_answer_from_another_address_is_not_heard(
    running: Balancer, server: NameServer, client: OpenClient
) -> None:
    """Another port, the very id and question: the sockets toward a server are connected to it."""
    data = wire.query()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))

        def handle(received: Received) -> list[Reply]:
            forged = wire.answer(received.data, wire.address_record("192.0.2.66"))
            true = wire.answer(received.data, wire.address_record("192.0.2.1"))
            return [Reply(forged, sock=other), Reply(true, delay=0.1)]

        server.handler = handle
        one = client(running.address)
        assert one.ask(data) == wire.answer(data, wire.address_record("192.0.2.1"))
        one.nothing_comes(0.02)


def test_answer_to_another_socket_is_ignored(
    start: StartBalancer, nameserver: StartServer, client: OpenClient
) -> None:
    """An id counts only on the socket the query left from."""
    server = nameserver()
    balancer = start([Server(server.address, sockets=4)], udp_timeout="20s")
    one = client(balancer.address)
    wait_for("two sockets", lambda: one.ask(wire.query()) and len({r.port for r in server.received}) > 1)
    known = {received.source for received in server.received}
    server.handler = silent
    count = len(server.received)
    data = wire.query()
    one.send(data)
    received = server.wait(count + 1)[-1]
    elsewhere = next(iter(known - {received.source}))
    server.send(wire.answer(received.data, wire.address_record("192.0.2.66")), elsewhere)
    wait_for("ignored", lambda: balancer.ignored() == {"unknown_id": 1})
    server.answer_all([received])
    assert one.receive() == wire.answer(data, wire.address_record())


def test_late_answer_is_counted_not_delivered(
    start: StartBalancer, nameserver: StartServer, client: OpenClient
) -> None:
    server = nameserver(delayed(1.5))
    balancer = start([server.address], udp_timeout="0.2s")
    one = client(balancer.address)
    for number in range(3):
        one.send(wire.query(ident=number))
    wait_for("late answers counted", lambda: balancer.ignored() == {"late": 3})
    one.nothing_comes(0.05)
    service = balancer.service()
    assert (service["timeouts"], service["answers"], service["inflight"]) == (3, 0, 0)
    assert balancer.server()["timeouts"] == 3
    server.handler = echo
    one.ask(wire.query())


def test_flood_of_false_answers_harms_nobody(
    running: Balancer, server: NameServer, client: OpenClient
) -> None:
    """Two hundred guesses at the id around the true answer (more may overflow a small socket buffer)."""

    def handle(received: Received) -> Iterator[bytes | Reply]:
        true = wire.answer(received.data, wire.address_record("192.0.2.1"))
        forged = wire.answer(received.data, wire.address_record("192.0.2.66"))
        for number in range(1, 100):
            yield wire.with_id(forged, wire.ident(true) ^ number)
        yield true
        for number in range(100, 200):
            yield wire.with_id(forged, wire.ident(true) ^ number)

    server.handler = handle
    one = client(running.address)
    for _ in range(3):
        data = wire.query()
        assert one.ask(data) == wire.answer(data, wire.address_record("192.0.2.1"))
    one.nothing_comes(0.05)
