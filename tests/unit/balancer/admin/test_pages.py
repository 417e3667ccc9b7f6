"""What is answered to which path."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from balancer.admin import http, runner
from balancer.component import Component
from tests.helpers.http import Answer, ask, parse
from tests.unit.balancer.admin.conftest import FACTS, Start, eventually

PAGE = Path(__file__).parents[4] / "docs" / "http.md"
PATHS = ("/healthz", "/readyz", "/metrics", "/api/v1/status", "/api/v1/history", "/", "/page/page.js")


def told(answer: Answer, status: int) -> str:
    """The detail of a problem, whose form is checked (RFC 9457)."""
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), answer
    body = answer.json()
    assert (body["status"], body["type"]) == (status, "about:blank")
    assert body["title"]
    return str(body["detail"])


async def test_health(start: Start) -> None:
    admin = await start(facts={})
    answer = await admin.get("/healthz")
    assert (answer.status, answer.json()) == (200, {"status": "alive"})


async def test_ready_when_the_supervisor_says_so(start: Start) -> None:
    admin = await start(facts={})
    assert "workers" in told(await admin.get("/readyz"), 503)
    admin.link.tell("snapshot", "", {**FACTS, "ready": False})
    assert "workers" in told(await admin.get("/readyz"), 503)
    admin.link.tell("snapshot", "", FACTS)
    answer = await admin.get("/readyz")
    assert (answer.status, answer.json()) == (200, {"status": "ready"})


async def test_ready_needs_a_server_in_every_service(start: Start) -> None:
    admin = await start({"one": ["a", "b"], "two": ["c", "d"]})
    admin.table.config.set_weight(1, 0, 0, 0)
    assert (await admin.get("/readyz")).status == 200
    admin.table.config.remove_server(1, 1)
    detail = told(await admin.get("/readyz"), 503)
    assert "two" in detail
    assert "one" not in detail


async def test_status_is_facts_and_table(start: Start) -> None:
    admin = await start({"one": ["a", "b"], "two": ["c"]}, workers=2)
    admin.table.fill(1)
    answer = await admin.get("/api/v1/status")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    one, two = admin.table.view.services()
    one["listen"], two["listen"] = FACTS["listen"]["one"], []
    assert answer.json() == {**FACTS, "components": {}, "services": [one, two]}


def shape(value: Any) -> Any:
    """The keys, without the values; all items of a list have the same."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return float if value is None else type(value)          # a time or a latency that is not known


async def test_documented_status_looks_like_ours(start: Start) -> None:
    """The table's part; the supervisor's stands in the scenario."""
    (example,) = (json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
                  if '"closed"' in block)
    facts = {key: value for key, value in example.items() if key not in ("services", "components")}
    told = (await (await start({"ns7": ["ns7c1", "ns7c2"]}, facts=facts)).get("/api/v1/status")).json()
    assert shape(example) == shape(told)


async def test_every_read_is_fresh(start: Start) -> None:
    admin = await start()
    for seed in range(3):
        admin.table.fill(seed)
        status = (await admin.get("/api/v1/status")).json()
        assert status["services"][0]["queries"] == admin.table.view.services()[0]["queries"]


def shown(snapshot: dict[str, int]) -> dict[str, int]:
    """A component's status function."""
    return {"doubled": 2 * snapshot["number"]}


async def test_status_of_components(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    records = {name: Component(name, "", "", status=f"{__name__}:shown") for name in ("here", "silent", "broken")}
    records["plain"] = Component("plain", "", "")
    monkeypatch.setattr(runner, "components", lambda: records)
    admin = await start()
    assert (await admin.get("/api/v1/status")).json()["components"] == {}
    for name, snapshot in (("here", {"number": 21}), ("broken", {"other": 1}), ("plain", {"number": 2}), ("silent", {}),
                           ("alert", {"number": 3})):
        admin.link.tell("snapshot", name, snapshot)
    for _ in range(2):
        assert (await admin.get("/api/v1/status")).json()["components"] == {
            "here": {"doubled": 42}, "plain": {"number": 2}}
    (line,) = admin.lines
    assert "broken" in line


@pytest.mark.parametrize("path", [
    "/page", "/page/", "/page/index.html", "/page/../page.js", "/page/%2e%2e/http.py", "/page/uplot/LICENSE",
    "/metrics/", "//metrics", "/METRICS", "/metrics;x", "/metrics%00", "/metrics%2f", "/api", "/api/v1/",
    "/../etc/passwd", "/..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/api/v1/../../../etc/passwd", "\\metrics",
    "/api/v1/status/../../../../proc/self/environ", "*", "http://other/nothing", "/%", "/%ff%fe",
    "/" + "a" * 3000, "/" + "../" * 500,
])
async def test_any_other_path_is_not_found(start: Start, path: str) -> None:
    admin = await start()
    answer = await admin.get(path)
    assert answer.status in (400, 404), answer
    told(answer, answer.status)
    assert b"root:" not in answer.body


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_only_reading(start: Start, path: str, method: str) -> None:
    admin = await start()
    answer = await admin.get(path, method)
    told(answer, 405)
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", PATHS)
async def test_head_is_get_without_body(start: Start, path: str) -> None:
    admin = await start(facts={**FACTS, "ready": True})
    whole, head, after = await admin.get(path), await admin.get(path, "HEAD"), await admin.get(path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]
    assert int(head.headers["content-length"]) in (len(whole.body), len(after.body))     # the history grows


async def test_head_of_events_ends(start: Start) -> None:
    head = await (await start()).get("/api/v1/events", "HEAD")
    assert (head.status, head.headers["content-type"], head.body) == (200, "text/event-stream", b"")


async def test_security_headers_everywhere(start: Start) -> None:
    admin = await start(allow=["127.0.0.1/32"])
    answers = [await admin.get(path) for path in (*PATHS, "/nothing")]
    answers.append(await admin.get("/metrics", "POST"))
    answers.append(await admin.get("/metrics", source="127.0.0.2"))
    answers.append(parse(await ask(admin.where, b"nonsense\r\n\r\n")))
    assert [answer.status for answer in answers] == [*[200] * len(PATHS), 404, 405, 403, 400]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["server"] == "ns7", "no versions of the machinery"
        assert "access-control-allow-origin" not in answer.headers


async def test_others_are_forbidden(start: Start) -> None:
    admin = await start(allow=["127.0.0.1/32"])
    assert "127.0.0.2" in told(await admin.get("/healthz", source="127.0.0.2"), 403)
    told(await admin.get("/nothing", source="127.0.0.2"), 403)
    assert (await admin.get("/healthz")).status == 200


async def test_nobody_is_allowed(start: Start) -> None:
    told(await (await start(allow=[])).get("/healthz"), 403)


async def test_long_work_delays_nobody(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that takes long to read holds up neither other pages nor events; those who wait share one reading."""
    admin = await start()
    go, readings, read = threading.Event(), list[int](), admin.table.view.services

    def slow() -> list[dict[str, object]]:
        readings.append(1)
        assert go.wait(30)
        return read()

    monkeypatch.setattr(admin.table.view, "services", slow)
    first = asyncio.create_task(admin.get("/api/v1/status"))
    await eventually("reading", lambda: readings)
    others = [asyncio.create_task(admin.get("/api/v1/status")) for _ in range(20)]
    for _ in range(3):
        assert (await admin.get("/healthz")).status == 200
    assert not first.done()
    go.set()
    assert {answer.status for answer in await asyncio.gather(first, *others)} == {200}
    assert len(readings) <= 4, "20 askers, a late one at most, and the overview"


async def test_our_mistake_is_told_and_logged(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    admin = await start()

    def broken(*_: object) -> list[dict[str, object]]:
        raise ZeroDivisionError("secret detail")

    with monkeypatch.context() as patch:
        patch.setattr(http.Pages, "status", broken)
        answer = await admin.get("/api/v1/status")
    assert "secret detail" not in told(answer, 500)
    assert "secret detail" in caplog.text
    assert (await admin.get("/api/v1/status")).status == 200
