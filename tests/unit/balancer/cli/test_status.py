"""The status as a table: numbers shortened, latencies read from buckets, rates between two looks."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from balancer.cli.status import Change, Look, percentile, short, table
from tests.helpers.table import Table

FACTS = {"version": "1", "node": "n1", "standing": "active", "ready": True, "uptime": 7300.0,
         "summaries": {"sync": ["pulls, generation 7"]}, "workers": [1, 2], "generation": 3, "live": [
    {"service": "dns", "server": "a", "what": "weight", "value": 1, "user": "anna", "time": 1.0, "node": "n1",
     "lifted": False, "saved": False, "idle": ""}]}


@pytest.fixture
def state() -> dict[str, Any]:
    with Table({"dns": ["a", "b"]}) as made:
        services = made.view.services()
    return {**FACTS, "services": [{**service, "listen": ["192.0.2.9:53"]} for service in services]}


@pytest.mark.parametrize(("number", "text"), [
    (0, "0"), (0.25, "0.2"), (9, "9"), (12.4, "12"), (9999, "9999"), (12_345, "12K"), (3_456_789, "3457K"),
    (45e6, "45M"), (2**63, "9223372T")])
def test_short(number: float, text: str) -> None:
    assert short(number) == text


def test_percentile() -> None:
    buckets = {"0.001": 10, "0.01": 99, "0.1": 99, "+Inf": 100}
    assert [percentile(buckets, {}, part) for part in (0.05, 0.5, 0.99, 1.0)] == ["1", "10", "10", ">100"]
    assert percentile(buckets, buckets, 0.5) == "-"
    assert percentile(buckets, {**buckets, "0.001": 0, "0.01": 0, "0.1": 0, "+Inf": 0}, 0.5) == "10"


def test_totals(state: dict[str, Any]) -> None:
    server = state["services"][0]["servers"][0]
    server["queries"], server["answers"]["NOERROR"], server["inflight"] = 12, 10, 2
    lines = table(state)
    assert "on n1 (active), up 2 h, 2 workers" in lines[0]
    heads, words = lines[2].split()[2:], lines[4].split()[2:]
    assert dict(zip(heads, words, strict=True)) == {
        "Name": "a", "State": "up", "Weight": "1", "InFlight": "2", "Queries": "12", "Answers": "10", "Resent": "0",
        "Timeouts": "0", "Refused": "0", "InBytes": "0", "OutBytes": "0", "p50ms": "-", "p99ms": "-"}
    assert lines[-2].startswith("changed: dns/a weight 1 by anna on n1, 1970-01-01")
    assert lines[-1] == "sync: pulls, generation 7"
    assert table({**state, "ready": False})[0].endswith("NOT READY: not all workers are listening")


def test_rates(state: dict[str, Any]) -> None:
    later = copy.deepcopy(state)
    service = later["services"][0]
    service["queries"], service["servers"][0]["queries"] = 500, 300
    service["servers"][0]["latency"]["buckets"]["+Inf"] = 5
    service["servers"][1]["address"] = "192.0.2.7:53"       # another server of that name: it begins anew
    service["servers"][1]["queries"] = 50
    lines = table(later, Change(Look(state, 10.0), Look(later, 12.0)))
    assert "250 queries/s, 0 answers/s" in lines[3]
    assert [line.split()[6] for line in lines[4:6]] == ["150", "25"]
    backward = table(state, Change(Look(later, 10.0), Look(state, 12.0)))
    assert "0 queries/s" in backward[3]
