"""Server-sent events: the ring, resuming, and clients that read slowly, never, or are gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from balancer.admin import events, http
from tests.helpers.http import Client, connected
from tests.unit.balancer.admin.conftest import Admin, Start, eventually


class Stream:
    """A client of /api/v1/events."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def block(self) -> list[str]:
        """The lines of the next block that is not a comment or a retry time; chunk framing is passed over."""
        while True:
            text = (await self.client.read_until(b"\n\n")).decode()
            lines = [line for line in text.replace("\r", "").split("\n") if line.startswith(("id:", "data:"))]
            if lines:
                return lines

    async def next(self) -> tuple[str, dict[str, Any]]:
        """(id, event)."""
        ident, data = await self.block()
        return ident.removeprefix("id: "), json.loads(data.removeprefix("data: "))

    async def ids(self, count: int) -> list[int]:
        return [int((await self.next())[0]) for _ in range(count)]


@contextlib.asynccontextmanager
async def follow(admin: Admin, last: str | None = None, **options: Any) -> AsyncIterator[Stream]:
    async with connected(admin.where, **options) as client:
        resume = f"Last-Event-ID: {last}\r\n" if last is not None else ""
        await client.send(f"GET /api/v1/events HTTP/1.1\r\nHost: test\r\n{resume}\r\n".encode())
        head = await client.read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        assert b"content-type: text/event-stream\r\n" in head.lower()
        yield Stream(client)


async def test_earlier_events_then_new_ones(start: Start) -> None:
    admin = await start()
    admin.happen(1, 'a "quoted"\nreason of two lines')
    async with follow(admin) as stream:
        ident, event = await stream.next()
        assert ident == "1"
        assert event == {"time": 1e9 + 1, "kind": "server", "subject": "dns/a", "before": "up", "after": "down",
                         "reason": 'a "quoted"\nreason of two lines', "id": "1", "tone": "bad"}
        for number in (2, 3):
            admin.happen(number)
            assert await stream.ids(1) == [number]


async def test_resuming(start: Start) -> None:
    """After the last event seen, nothing twice and nothing left out; all there is when that one is unknown."""
    admin = await start()
    for number in range(1, 201):
        admin.happen(number)
    async with follow(admin, "150") as stream:
        assert await stream.ids(50) == list(range(151, 201))
    async with follow(admin, "200") as stream:
        admin.happen(201)
        assert await stream.ids(1) == [201]
    async with follow(admin, "never seen") as stream:
        assert await stream.ids(201) == list(range(1, 202))


async def test_the_newest_thousand(start: Start) -> None:
    admin = await start()
    for number in range(1, 2501):
        admin.happen(number)
    async with follow(admin) as stream:
        assert await stream.ids(1000) == list(range(1501, 2501))
    async with follow(admin, "1500") as stream:
        assert await stream.ids(1) == [1501]


async def test_silence_is_filled(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT", 0.05)
    async with follow(await start()) as stream:
        for _ in range(3):
            assert b": " in await stream.client.read_until(b": nothing new\n\n")


async def test_a_client_that_never_reads_is_cut(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """And disturbs nobody."""
    monkeypatch.setattr(events, "PATIENCE", 0.5)
    admin = await start()
    async with follow(admin, receive=4096) as deaf, follow(admin) as stream:
        for number in range(1, 801):
            admin.happen(number, "x" * 10_000)
        assert await stream.ids(800) == list(range(1, 801))
        await asyncio.sleep(1.0)
        seen = len(await deaf.client.read_all())
        assert seen < 4_000_000, "it was cut, so not all of 8 MB came"


async def test_a_client_that_falls_behind_the_ring_is_cut(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would not know what it has missed; its browser connects again and is told."""
    monkeypatch.setattr(events, "MOST_EVENTS", 100)
    admin = await start()
    async with follow(admin, receive=4096) as slow:
        for number in range(1, 2001):
            admin.happen(number, "x" * 10_000)
            if number % 50 == 0:
                await asyncio.sleep(0)
        text = (await slow.client.read_all()).decode()
        seen = [int(line[4:]) for line in text.splitlines() if line.startswith("id: ")]
        assert seen == list(range(1, len(seen) + 1)), "no gap"
        assert len(seen) < 2000


async def test_places_are_limited_and_given_back(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST_STREAMS", 3)
    admin = await start()

    async def refused() -> bool:
        """Whether a fourth is, to which a connection of its own is given."""
        async with connected(admin.where) as client:
            await client.send(b"GET /api/v1/events HTTP/1.1\r\nHost: test\r\n\r\n")
            return b" 503 " in await client.read_until(b"\r\n")

    async with follow(admin), follow(admin):
        async with follow(admin) as third:
            assert await refused()
            third.client.reset()
            await eventually("a place", lambda: _not(refused()))
        async with follow(admin):
            assert await refused()
    async with follow(admin), follow(admin), follow(admin):
        assert await refused()


async def _not(probe: Any) -> bool:
    return not await probe


async def test_the_end_ends_streams(start: Start) -> None:
    """At once, and as a whole answer."""
    admin = await start()
    async with follow(admin) as one, follow(admin) as two:
        await admin.stop()
        for stream in (one, two):
            assert (await stream.client.read_all()).endswith(b"0\r\n\r\n")
