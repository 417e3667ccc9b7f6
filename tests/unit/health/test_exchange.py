"""Exchanges over real sockets, with servers that answer well, not at all, and as badly as they can."""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from health.exchange import Exchange, Exchanges
from health.probe import result, serials
from health.question import soa
from health.verdict import Result, Severity
from tests.helpers import wire
from tests.helpers.nameserver import NameServer, Received, always, delayed, echo, silent
from tests.helpers.ports import free_port
from tests.helpers.tcp import Asked, TcpServer, frame

ZONE = "example.com"
TIMEOUT = 0.2


def good(query: bytes) -> bytes:
    """The SOA with serial 9 and authority."""
    record = b"\xc0\x0c\0\x06\0\x01\0\0\1\x2c\0\x16\0\0" + b"".join(n.to_bytes(4, "big") for n in (9, 1, 1, 1, 1))
    end = 12 + len(wire.question(ZONE, "SOA"))
    return query[:2] + b"\x84\x00\0\1\0\1\0\0\0\0" + query[12:end] + record


def probe(proto: str, port: int, source: str = "", timeout: float = TIMEOUT) -> Exchange:
    """One exchange to its end, turned as the runner turns it."""
    exchanges = Exchanges(time.monotonic)
    ended: list[Exchange] = []
    exchanges.begin(proto, "127.0.0.1", port, source, [soa(ZONE)], timeout, ended.append)
    deadline = time.monotonic() + 10
    while not ended and time.monotonic() < deadline:
        select.select([exchanges.fileno()], [], [], 0.01)
        exchanges.on_readable()
        exchanges.expire()
    assert len(ended) == 1 and len(exchanges) == 0
    exchanges.close()
    return ended[0]


@pytest.fixture
def closed() -> int:
    """A port where nobody listens."""
    return free_port()


def test_good_answers() -> None:
    with NameServer(always(good)) as udp, TcpServer(lambda asked: asked.connection.say(good(asked.data))) as tcp:
        for proto, port in (("udp", udp.port), ("tcp", tcp.port)):
            one = probe(proto, port, "127.0.0.1", 5.0)
            assert result(one).good and serials(one) == {ZONE: 9}
            latency = result(one).latency
            assert latency is not None and 0 < latency < 5


def test_nobody_there(closed: int) -> None:
    for proto in ("udp", "tcp"):
        one = probe(proto, closed, timeout=5.0)
        assert result(one) == Result(Severity.DEAD, "connection refused", None, refused=True)
        assert one.ended - one.began < 4, "whoever is refused does not wait"


def test_silence_is_asked_once_more() -> None:
    with NameServer(silent) as server:
        one = result(probe("udp", server.port))
        assert (one.severity, one.silent, one.refused) == (Severity.DEAD, True, False)
        assert one.reason == f"{ZONE} SOA: no answer within 0.2 s"
        assert len(server.received) == 2
    with NameServer(delayed(0.15, always(good))) as server:
        assert result(probe("udp", server.port, timeout=5.0)).good


def test_asked_from_the_address_of_the_traffic() -> None:
    with NameServer(always(good)) as server:
        assert result(probe("udp", server.port, "127.0.0.7", timeout=5.0)).good
        assert server.received[0].source[0] == "127.0.0.7"


def test_a_probe_that_is_hurried_is_asked_again_at_once() -> None:
    with NameServer(silent) as server:
        exchanges, ended = Exchanges(time.monotonic), list[Exchange]()
        one = exchanges.begin("udp", "127.0.0.1", server.port, "", [soa(ZONE)], 5.0, ended.append)
        server.wait(1)
        exchanges.expire()
        exchanges.hurry(one)
        exchanges.expire()
        server.wait(2)
        exchanges.hurry(one)
        exchanges.expire()
        assert not one.over and not ended and len(server.received) == 2, "once is enough"
        exchanges.close()


def test_a_source_that_is_not_ours() -> None:
    with NameServer(always(good)) as server:
        one = result(probe("udp", server.port, "192.0.2.1"))
        assert one.severity is Severity.DEAD and "cannot assign" in one.reason


def second_id(received: Received) -> Iterator[bytes]:
    for wrong in (1, 2):
        yield bytes([received.data[0] ^ wrong]) + good(received.data)[1:]


@pytest.mark.parametrize(("handler", "reason"), [
    (echo, "not authoritative"),
    (always(lambda query: query), "2 datagrams that answer nothing asked"),
    (second_id, "4 datagrams that answer nothing asked"),
    (always(lambda query: b"\xff" * 500), "2 datagrams that answer nothing asked"),
    (always(lambda query: b""), "2 datagrams that answer nothing asked"),
    (always(lambda query: good(query)[:60]), "no DNS message"),
    (always(lambda query: good(query).ljust(60_000, b"\0")), "an answer of 60000 bytes"),
    (always(lambda query: good(query)[:3] + b"\x05" + good(query)[4:]), "REFUSED"),
])
def test_bad_datagrams(handler: Callable[[Received], Iterator[bytes]], reason: str) -> None:
    with NameServer(handler) as server:
        one = result(probe("udp", server.port))
        assert not one.good and reason in one.reason


def drip(asked: Asked) -> None:
    for byte in frame(good(asked.data)):
        asked.connection.say_raw(bytes([byte]))
        time.sleep(0.02)


def crumbs(asked: Asked) -> None:
    for _ in range(400):
        asked.connection.say_raw(b"\0\x0c" + bytes(12))


@pytest.mark.parametrize(("handler", "reason"), [
    (lambda asked: asked.connection.close(), "it closed the connection"),
    (lambda asked: asked.connection.reset(), "the connection"),
    (lambda asked: asked.connection.say_raw(b"\xff\xff"), "it announced an answer of 65535 bytes"),
    (lambda asked: asked.connection.say_raw(b"\0\0"), "no answer within"),
    (drip, "no answer within"),
    (crumbs, "no answer within|an answer in too many pieces"),      # as they happen to be read
    (lambda asked: None, "no answer within"),
])
def test_bad_streams(handler: Callable[[Asked], None], reason: str) -> None:
    with TcpServer(handler) as server:
        one = result(probe("tcp", server.port))
        assert one.severity is Severity.DEAD and re.search(reason, one.reason), one.reason


def test_late_ourselves() -> None:
    """What lies in the socket counts, however late it is read."""
    now = [100.0]
    exchanges = Exchanges(lambda: now[0])
    ended: list[Exchange] = []
    with NameServer(always(good)) as server:
        exchanges.begin("udp", "127.0.0.1", server.port, "", [soa(ZONE)], 0.5, ended.append)
        assert select.select([exchanges.fileno()], [], [], 10)[0]
        now[0] = 200.0
        exchanges.expire()
    assert len(ended) == 1 and result(ended[0]).good
    exchanges.close()


def test_a_full_machine_is_a_failed_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> socket.socket:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("health.exchange.socket.socket", refuse)
    exchanges = Exchanges(time.monotonic)
    ended: list[Exchange] = []
    exchanges.begin("udp", "127.0.0.1", 9, "", [soa(ZONE)], 0.5, ended.append)
    assert ended[0].error == "too many open files"
    exchanges.close()
