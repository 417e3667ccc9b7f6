"""Servers that say nothing over TCP: others are asked soon, the first answer wins, and who is silent is passed over."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from tests.conftest import OpenTcpClient, StartBalancer, StartServer, StartTcpServer
from tests.helpers import wire
from tests.helpers.client import Client
from tests.helpers.ports import free_address
from tests.helpers.tcp import Asked, TcpClient, silent
from tests.helpers.waiting import wait_for

SOON = 1.0          # seconds: well below tcp_timeout, far above retry_after


def numbered(count: int, first: int = 0) -> list[bytes]:
    return [wire.query(f"n{number}.example", ident=number) for number in range(first, first + count)]


def test_another_one_is_asked_soon(start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient) -> None:
    """Alone and pipelined; after eight such queries nobody asks the silent one, but for a probe now and then."""
    mute, good = tcpserver(silent), tcpserver()
    balancer = start([mute.address, good.address], scheduler="rr", service={"tcp_timeout": "10s"})
    clients = [tcpclient(balancer.address) for _ in range(4)]
    begun = time.monotonic()
    for data in numbered(4):
        for client in clients:
            client.say(data)
    for client in clients:
        assert sorted(client.hear_all(4)) == sorted(wire.answer(data, wire.address_record()) for data in numbered(4))
    assert time.monotonic() - begun < 2
    wait_for("the silent one is passed over", lambda: _quick(balancer.address, mute.asked), 10)
    balancer.wait_idle()


def _quick(address: str, asked: list[Asked]) -> bool:
    before = len(asked)
    for data in numbered(20):
        with TcpClient(address) as client:
            assert wire.rcode(client.ask(data, SOON)) == 0
    return len(asked) - before <= 2


@pytest.mark.long
def test_the_silent_one_comes_back(start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient) -> None:
    """Its first answer, to a probe, makes it one of the servers again."""
    sleepy, good = tcpserver(silent), tcpserver()
    balancer = start([sleepy.address, good.address], scheduler="rr", service={"tcp_timeout": "10s"})
    wait_for("the silent one is passed over", lambda: _quick(balancer.address, sleepy.asked), 20)
    sleepy.handler = Asked.answer
    before = len(sleepy.asked)
    wait_for("it gets its share", lambda: not _quick(balancer.address, sleepy.asked), 10)
    assert len(sleepy.asked) > before


def test_late_answers_reach_nobody(start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient) -> None:
    """A slow server's answer comes after another's: it is dropped, whatever the client has asked since."""
    def slow(asked: Asked) -> None:
        def answer() -> None:
            with contextlib.suppress(OSError):
                asked.answer(wire.address_record("192.0.2.99"))

        threading.Timer(0.6, answer).start()

    late, good = tcpserver(slow), tcpserver()
    balancer = start([late.address, good.address], scheduler="rr", service={"tcp_timeout": "10s"})
    client = tcpclient(balancer.address)
    heard = []
    for turn in range(10):
        for data in numbered(2):                    # the same ids and names again and again
            client.say(data)
        heard += client.hear_all(2)
        assert len(heard) == 2 * turn + 2
    assert sorted({wire.ident(answer) for answer in heard}) == [0, 1]
    client.nothing_comes(0.8)
    service = balancer.wait_idle()["tcp"]
    assert (service["queries"], service["answers"], service["timeouts"]) == (20, 20, 0)


def test_doubtful_answer_while_another_is_awaited(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """The first is slow, the second has lost its zones and answers at once: the first one's answer is relayed."""
    def slow(asked: Asked) -> None:
        def answer() -> None:
            with contextlib.suppress(OSError):
                asked.answer()

        threading.Timer(0.35, answer).start()

    balancer = start([tcpserver(slow).address, tcpserver(lambda asked: asked.answer(code="REFUSED")).address],
                     scheduler="rr", service={"tcp_timeout": "10s"})
    for data in numbered(8):
        with TcpClient(balancer.address) as client:
            answer = client.ask(data)
            assert wire.rcode(answer) in (0, wire.RCODES["REFUSED"])
    balancer.wait_idle()


def test_updates_and_transfers_are_asked_once(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    mute, other = tcpserver(silent), tcpserver(silent)
    balancer = start([mute.address, other.address], admit={"update": ["127.0.0.0/8"], "transfer": ["127.0.0.0/8"]},
                     service={"tcp_timeout": "3s"})
    client = tcpclient(balancer.address)
    client.say(wire.query(opcode="UPDATE", ident=1), wire.query("zone.example", "AXFR", ident=2))
    wait_for("both were sent", lambda: len(mute.asked) + len(other.asked) == 2)
    time.sleep(0.8)
    assert len(mute.asked) + len(other.asked) == 2


def test_switched_off(start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient) -> None:
    mute, good = tcpserver(silent), tcpserver()
    balancer = start([mute.address, good.address], scheduler="rr", service={"tcp_timeout": "1s", "retry": "off"})
    begun = time.monotonic()
    for data in numbered(2):
        with TcpClient(balancer.address) as client:
            assert wire.rcode(client.ask(data)) == 0
    assert time.monotonic() - begun > 0.9, "one of them met the silent server"


def test_both_refuse_and_one_returns(start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient) -> None:
    """What is asked meanwhile waits for who comes first; nobody is told SERVFAIL."""
    servers = [tcpserver(), tcpserver()]
    balancer = start([server.address for server in servers], service={"tcp_timeout": "10s"})
    client, other = tcpclient(balancer.address), tcpclient(balancer.address)
    assert wire.rcode(client.ask(wire.query())) == 0
    for server in servers:
        server.kill()
    client.say(*numbered(20))
    other.nothing_comes(0.5)
    other.say(*numbered(20))
    servers[1].listen()
    begun = time.monotonic()
    for one in (client, other):
        assert sorted(one.hear_all(20)) == sorted(wire.answer(data, wire.address_record()) for data in numbered(20))
    assert time.monotonic() - begun < 3
    balancer.wait_idle()
    assert balancer.tcp_told("dropped") == {}


def test_all_down_is_said_at_once_where_that_is_wanted(start: StartBalancer, tcpclient: OpenTcpClient) -> None:
    balancer = start([free_address(), free_address()], service={"tcp_timeout": "20s", "when_all_down": "servfail"})
    begun = time.monotonic()
    assert wire.rcode(tcpclient(balancer.address).ask(wire.query())) == wire.RCODES["SERVFAIL"]
    assert time.monotonic() - begun < 5


def test_failures_are_known_to_all_workers(
    start: StartBalancer, nameserver: StartServer, tcpserver: StartTcpServer
) -> None:
    """UDP up, TCP down: who meets it first tells the others, and over UDP it is a server like any other."""
    half, good = nameserver(), nameserver()
    tcpserver(port=good.port)
    balancer = start([half.address, good.address], workers=2, scheduler="rr")
    sources = [f"127.0.9.{number}" for number in range(1, 17)]

    def ask_all() -> None:
        for source in sources:
            with TcpClient(balancer.address, source) as client:
                assert wire.rcode(client.ask(wire.query(), SOON)) == 0

    def failures() -> int:
        return int(balancer.tcp_server(0)["failures"])

    with TcpClient(balancer.address, sources[0]) as client:
        while not failures():
            client.ask(wire.query())
    time.sleep(0.2)         # two sweeps
    begun, before = time.monotonic(), failures()
    ask_all()
    if time.monotonic() - begun < 0.6:
        assert failures() == before, "no worker tries it on its own within a second"
    with Client(balancer.address) as client:
        for number in range(20):
            client.ask(wire.query(ident=number))
    assert len(half.received) >= 8 and len(good.received) >= 8
