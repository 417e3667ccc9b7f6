"""The overview, over HTTP and on the stream of events; the hour."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from typing import Any

import pytest

from balancer.admin import events, overview, runner
from balancer.admin.overview import reason
from balancer.table.table import Row
from tests.helpers.http import connected
from tests.unit.balancer.admin.conftest import FACTS, Admin, Start
from tests.unit.balancer.admin.test_pages import PAGE, shape, told

NO_HEALTH = {proto: {"verdict": "unknown", "reason": ""} for proto in ("udp", "tcp")}


def example(key: str) -> Any:
    """The one example of docs/http.md with this in it."""
    (found,) = (json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
                if key in block)
    return found


async def told_on_stream(admin: Admin, count: int, query: str = "overview") -> list[dict[str, Any]]:
    """So many overviews from the stream of events."""
    async with connected(admin.where) as client:
        await client.send(f"GET /api/v1/events?{query} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        found = []
        while len(found) < count:
            text = (await client.read_until(b"\n\n")).decode()
            if "event: overview\n" in text:
                found.append(json.loads(text.partition("data: ")[2]))
        return found


async def test_documented_overview_looks_like_ours(start: Start) -> None:
    admin = await start({"ns7": ["ns7c1"]}, facts={**FACTS, "listen": {"ns7": ["192.0.2.1:53"]}})
    Row(admin.table.row_fds[1], True).add_service(0, {"queries": 7})
    shown = (await admin.get("/api/v1/overview")).json()
    (service,) = shown.pop("services")
    one = example('"fair"')
    for each in (service, one):
        del each["point"], each["dropped"]
        for server in each["servers"]:
            del server["answers"]
        for part in (each, *each["servers"]):
            part["p50"] = part["p99"] = None
    assert shape(service) == shape(one)
    assert {"time", "alerts", "components", "version", "listen"} <= shown.keys()


async def test_documented_history_looks_like_ours(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "INTERVAL", 0.02)
    monkeypatch.setattr("balancer.admin.history.STEP", 0.05)
    admin = await start({"ns7": ["ns7c1"]})
    await told_on_stream(admin, 12)
    plain, packed = await admin.get("/api/v1/history"), await admin.get(
        "/api/v1/history", headers={"Accept-Encoding": "gzip"})
    assert json.loads(gzip.decompress(packed.body)).keys() == plain.json().keys()
    ours, theirs = plain.json()["services"][0], example('"step"')["services"][0]
    assert ours.keys() == theirs.keys()
    assert len({len(column) for name, column in ours.items() if name != "name"}) == 1
    assert len(ours["time"]) >= 2
    assert ours["queries"] == [0.0] * len(ours["time"])


async def test_on_the_stream(start: Start) -> None:
    """Beside the events, at once and each second."""
    admin = await start()
    for number in range(1, 101):
        admin.happen(number)
    async with connected(admin.where) as client:
        await client.send(b"GET /api/v1/events?overview&last=3 HTTP/1.1\r\nHost: test\r\n\r\n")
        text = (await client.read_until(b"event: overview\n")).decode()
        assert re.findall(r"^id: (\d+)$", text, re.M) == ["98", "99", "100"]
        first = json.loads((await client.read_until(b"\n\n")).decode().removeprefix("data: "))
        await client.read_until(b"event: overview\n")
        second = json.loads((await client.read_until(b"\n\n")).decode().removeprefix("data: "))
    assert first["version"] == FACTS["version"]
    assert second["time"] > first["time"]


async def test_who_only_follows_events_is_not_told(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "INTERVAL", 0.02)
    admin = await start()
    async with connected(admin.where) as client:
        await client.send(b"GET /api/v1/events HTTP/1.1\r\nHost: test\r\n\r\n")
        await client.read_until(b"retry: 2000\n\n")
        await told_on_stream(admin, 5)
        admin.happen(1)
        assert b"overview" not in await client.read_until(b"id: 1\n")
        assert b"nothing new" not in await client.read_until(b"\n\n")


async def test_others_hear_that_there_is_nothing_new(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often an overview wakes those who follow that: dead clients must be noticed."""
    monkeypatch.setattr(overview, "INTERVAL", 0.02)
    monkeypatch.setattr(events, "HEARTBEAT", 0.2)
    admin = await start()
    async with connected(admin.where) as client:
        await client.send(b"GET /api/v1/events HTTP/1.1\r\nHost: test\r\n\r\n")
        await client.read_until(b"retry: 2000\n\n")
        follower = asyncio.create_task(told_on_stream(admin, 10**6))
        await client.read_until(b"nothing new\n\n")
        assert not follower.done()
        follower.cancel()


async def test_who_does_not_read_is_cut_and_holds_up_nobody(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for a slow reader: what is kept for it stays within buffers, then it is cut off."""
    monkeypatch.setattr(overview, "INTERVAL", 0.005)
    monkeypatch.setattr(overview, "SHARE", 1.0)
    monkeypatch.setattr(events, "PATIENCE", 0.3)
    monkeypatch.setattr(runner, "SEND_BUFFER", 4096)
    admin = await start({"dns": [f"s{number}" for number in range(60)]})
    async with connected(admin.where, receive=4096) as deaf:
        await deaf.send(b"GET /api/v1/events?overview HTTP/1.1\r\nHost: test\r\n\r\n")
        await deaf.read_until(b"\r\n")
        seen = await told_on_stream(admin, 15)
        assert [one["time"] for one in seen] == sorted(one["time"] for one in seen)
        await asyncio.sleep(0.5)
        assert len(await deaf.read_all()) < 400_000, "and then the end: it was cut"


async def test_events_as_json(start: Start) -> None:
    admin = await start()
    for number in range(1, 101):
        admin.happen(number)
    accept = {"Accept": "application/json"}
    last = await admin.get("/api/v1/events?last=3", headers=accept)
    assert [one["id"] for one in last.json()] == ["98", "99", "100"]
    assert last.headers["content-type"] == "application/json"
    more = await admin.get("/api/v1/events?last=3", headers={**accept, "Last-Event-ID": "40"})
    assert [one["id"] for one in more.json()] == [str(number) for number in range(41, 101)]
    assert len((await admin.get("/api/v1/events", headers=accept)).json()) == 100
    for wrong in ("-1", "x", "1001", "", "9" * 500, "٣"):
        told(await admin.get(f"/api/v1/events?last={wrong.encode().decode('latin-1')}", headers=accept), 400)


async def test_alerts_and_components(start: Start) -> None:
    admin = await start()
    admin.link.tell("snapshot", "alert", {"open": [{"id": 1, "kind": "server"}], "open_total": 1})
    await asyncio.sleep(1.1)
    assert (await admin.get("/api/v1/overview")).json()["alerts"] == [{"id": 1, "kind": "server"}]


async def test_the_hour_goes_to_the_successor(start: Start) -> None:
    admin = await start()
    await admin.get("/api/v1/overview")
    async with asyncio.timeout(10):
        while not admin.link.published:
            await asyncio.sleep(0.01)
    assert admin.link.published[0]["format"] == 1
    kept = admin.link.handlers["hand over"]()
    assert kept["states"]
    await asyncio.wait_for(admin.task, 10)


async def test_a_kept_hour_that_is_nonsense_is_told_and_forgotten(start: Start) -> None:
    admin = await start(kept={"format": 1, "hour": [{"name": 7}]})
    assert (await admin.get("/api/v1/history")).status == 200
    assert "last hour" in admin.lines[0]


@pytest.mark.parametrize(("server", "live", "expected"), [
    ({}, [], ""),
    ({"state": "suspected"}, [], "its clients' queries are refused or not answered"),
    ({"state": "drained"}, [], "by the configuration file"),
    ({"state": "down", "ordered": "down"}, [{"what": "state", "user": "anna", "node": "c0", "idle": ""}],
     "by anna on c0"),
    ({"state": "drained"}, [{"what": "state", "user": "anna", "node": "c0", "idle": "no such server"}],
     "by the configuration file"),
    ({"state": "degraded", "health": {"udp": {"verdict": "up", "reason": "old"},
                                      "tcp": {"verdict": "down", "reason": "refused"}}}, [], "TCP: refused"),
    ({"state": "down", "health": {"udp": {"verdict": "down", "reason": "silent"},
                                  "tcp": {"verdict": "down", "reason": "silent"}}}, [], "silent"),
    ({"state": "down", "health": {"udp": {"verdict": "spared", "reason": "silent"},
                                  "tcp": {"verdict": "down", "reason": ""}}}, [],
     "UDP: silent; TCP: down; still used, for too few are up"),
])
def test_reason(server: dict[str, Any], live: list[dict[str, Any]], expected: str) -> None:
    whole = {"name": "a", "state": "up", "ordered": "auto", "health": NO_HEALTH, **server}
    assert reason("dns", whole, [{"service": "dns", "server": "a", **one} for one in live]) == expected
