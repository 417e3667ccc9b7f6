"""Clients as nobody wants them. Each is answered or closed, in bounded time, and nobody else is disturbed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from balancer.admin import connections
from tests.helpers.http import ask, connected, parse
from tests.unit.balancer.admin.conftest import Admin, Start, eventually

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n"


async def serves(admin: Admin) -> None:
    assert (await admin.get("/healthz")).status == 200


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PATIENCE", 0.5)
    monkeypatch.setattr(connections, "SWEEP", 0.1)


@pytest.fixture
def many() -> Iterator[None]:
    """Both ends of thousands of connections are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("impatient")
async def test_slow_headers_are_cut(start: Start) -> None:
    """A byte now and then does not prolong it."""
    admin = await start()
    async with connected(admin.where) as client:
        async def dribble() -> None:
            for byte in b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 10_000:
                await client.send(bytes([byte]))
                await asyncio.sleep(0.02)

        slow = asyncio.create_task(dribble())
        await serves(admin)
        assert await client.read_all() == b""
        slow.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await slow
    await serves(admin)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("sent", [b"", b"GET", REQUEST[:-2], REQUEST, REQUEST + REQUEST[:10]])
async def test_idle_connections_are_closed(start: Start, sent: bytes) -> None:
    admin = await start()
    async with connected(admin.where) as client:
        await client.send(sent)
        assert (await client.read_all()).count(b'"alive"') == sent.count(b"\r\n\r\n")


@pytest.mark.usefixtures("impatient")
async def test_an_answer_nobody_takes_is_given_up(start: Start) -> None:
    """The connection and its memory are given back."""
    admin = await start({"dns": [f"s{number}" for number in range(256)]})
    await admin.get("/metrics")
    before = descriptors()
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(admin.where, receive=4096)) for _ in range(20)]
        for client in clients:
            client.writer.transport.pause_reading()
            await client.send(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n")
        await eventually("only our own ends left", lambda: descriptors() <= before + 20)
        await serves(admin)


@pytest.mark.usefixtures("many")
async def test_a_thousand_idle_connections(start: Start) -> None:
    """All are served when they ask at last; beyond the limit the one idle longest goes."""
    admin = await start()
    async with contextlib.AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(connected(admin.where)) for _ in range(1000)]
        for client in idle[::2]:
            await client.send(REQUEST[:20])
        await serves(admin)
        for client in (idle[0], idle[999]):
            await client.send(REQUEST[20:] if client is idle[0] else REQUEST)
            assert b" 200 " in await client.read_until(b'"alive"}\n')
        more = [await stack.enter_async_context(connected(admin.where)) for _ in range(200)]
        await more[-1].send(REQUEST)
        assert b" 200 " in await more[-1].read_until(b"\r\n")
        assert await idle[1].read_all() == b"", "the longest idle"
        await idle[0].send(REQUEST)
        assert b" 200 " in await idle[0].read_until(b'"alive"}\n'), "it asked later than the other"
    await eventually("all gone", lambda: descriptors() < 200)
    await serves(admin)


HUGE = 1 << 20
BAD = {
    "long line": b"GET /" + b"a" * HUGE + b" HTTP/1.1\r\n\r\n",
    "line without end": b"G" * HUGE,
    "long header": b"GET /healthz HTTP/1.1\r\nHost: test\r\nX: " + b"a" * HUGE + b"\r\n\r\n",
    "long header name": b"GET /healthz HTTP/1.1\r\nHost: test\r\n" + b"a" * HUGE,
    "many headers": b"GET /healthz HTTP/1.1\r\nHost: test\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
    "no method": b"\r\n\r\n\r\n\r\n",
    "garbage": bytes(range(256)) * 10 + b"\r\n\r\n",
    "zeros": bytes(HUGE),
    "TLS": bytes.fromhex("16030100") + b"\xfa" + b"\x01" * 250 + b"\r\n\r\n",
    "DNS over TCP": b"\x00\x1d\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\x03www\x07example\x03com\0\0\1\0\1\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9": b"GET /healthz HTTP/9.9\r\nHost: test\r\n\r\n",
    "folded header": b"GET /healthz HTTP/1.1\r\nHost: test\r\nX: y\r\n z\r\n\r\n",
    "header with zero": b"GET /healthz HTTP/1.1\r\nHost: test\r\nX: a\0b\r\n\r\n",
    "header without colon": b"GET /healthz HTTP/1.1\r\nHost: test\r\nnothing\r\n\r\n",
    "negative length": b"GET /healthz HTTP/1.1\r\nHost: test\r\nContent-Length: -5\r\n\r\n",
    "two lengths": b"GET /healthz HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "length and chunks":
        b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk": b"GET /healthz HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("what", BAD)
async def test_malformed_requests(start: Start, what: str, caplog: pytest.LogCaptureFixture) -> None:
    """Answered with 400 or closed; nothing in the log, which a client could fill; the next one is served."""
    admin = await start()
    async with connected(admin.where) as client:
        with contextlib.suppress(ConnectionError):
            await client.send(BAD[what])
        data = await client.read_all()
    if data:
        assert 400 <= parse(data).status < 500 or what in ("bad chunk",), data
    assert (caplog.text, admin.lines) == ("", [])
    await serves(admin)


async def test_what_a_client_sends_ahead_is_bounded(start: Start) -> None:
    """Headers that are each all right and never end; and what is pipelined while an answer is not taken."""
    admin = await start()
    for data in (REQUEST[:-2] + b"".join(b"X%d: %s\r\n" % (number, b"a" * 1000) for number in range(60)),
                 b"GET /api/v1/events HTTP/1.1\r\nHost: test\r\n\r\n" + REQUEST * 2000):
        async with connected(admin.where) as client:
            for begin in range(0, len(data), 1000):
                with contextlib.suppress(ConnectionError):
                    await client.send(data[begin:begin + 1000])
            await client.read_all()
    await serves(admin)


@pytest.mark.usefixtures("impatient")
async def test_random_bytes(start: Start) -> None:
    admin = await start()
    noise = random.Random(7)
    for _ in range(50):
        data = bytearray(REQUEST * 3)
        for _ in range(noise.randrange(1, 6)):
            data[noise.randrange(len(data))] = noise.randrange(256)
        with contextlib.suppress(ConnectionError):
            await ask(admin.where, bytes(data))
    await serves(admin)


@pytest.mark.parametrize("head", [
    b"POST /metrics HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000000\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n10000000\r\n",
    b"POST /metrics HTTP/1.1\r\nHost: test\r\nContent-Encoding: deflate\r\nContent-Length: 1000000000\r\n\r\n",
])
async def test_bodies_are_not_taken(start: Start, monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    """An endless body is answered before it ends, and ended."""
    monkeypatch.setattr(connections, "LINGER", 0.3)
    admin = await start()
    async with connected(admin.where) as client:
        await client.send(head)
        first = await client.read_until(b"\r\n")
        assert first.split()[1] in (b"200", b"405")

        async def pour() -> None:
            while True:
                await client.send(bytes(1 << 16))

        pouring = asyncio.create_task(pour())
        await client.read_all()
        pouring.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await pouring
    await serves(admin)


async def test_pipelined_requests_are_answered_in_order(start: Start) -> None:
    admin = await start()
    async with connected(admin.where) as client:
        paths = [b"/healthz", b"/nothing", b"/readyz"] * 40
        await client.send(b"".join(b"GET " + path + b" HTTP/1.1\r\nHost: test\r\n\r\n" for path in paths))
        seen: list[bytes] = []
        while len(seen) < len(paths):
            head = await client.read_until(b"\r\n\r\n")
            seen.append(head.split()[1])
            length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
            await client.reader.readexactly(int(length.split()[1]))
        assert seen == [b"200", b"404", b"200"] * 40


async def test_clients_that_vanish(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """In every place of a request; nothing is logged, nothing is left."""
    admin = await start({"dns": [f"s{number}" for number in range(64)]})
    await admin.get("/metrics")
    before = descriptors()
    for path in (b"/healthz", b"/metrics", b"/api/v1/status", b"/api/v1/events"):
        request = b"GET " + path + b" HTTP/1.1\r\nHost: test\r\n\r\n"
        for sent in (request[:5], request[:-1], request, request * 5):
            for wait in (0.0, 0.01):
                async with connected(admin.where) as client:
                    await client.send(sent)
                    await asyncio.sleep(wait)
                    client.reset()
    await eventually("nothing left", lambda: descriptors() <= before)
    assert (caplog.text, admin.lines) == ("", [])
    await serves(admin)
