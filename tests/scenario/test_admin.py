"""The admin process of a real `ns7 run`: what it tells is true, and what happens to it is nobody else's trouble."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import OpenClient, StartBalancer, StartServer
from tests.helpers import wire
from tests.helpers.client import ask, load
from tests.helpers.daemon import Balancer
from tests.helpers.nameserver import silent
from tests.helpers.ports import address, free_port, split
from tests.helpers.waiting import PATIENCE, wait_for

NET_BIND_SERVICE = 1 << 10
PAGE = Path(__file__).parents[2] / "docs" / "http.md"


def fetch(where: str, path: str) -> tuple[int, bytes]:
    """(status, body)"""
    host, port = split(where)
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def answers(where: str) -> bool:
    try:
        return fetch(where, "/healthz")[0] == 200
    except OSError:
        return False


def status(where: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(fetch(where, "/api/v1/status")[1])
    return found


def metrics(where: str) -> dict[str, float]:
    """Sums over all labels."""
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(fetch(where, "/metrics")[1].decode()):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0) + sample.value
    return sums


def process(balancer: Balancer) -> int:
    """The pid of the running admin process."""
    def running() -> int:
        told = balancer.status()["processes"]["admin"]
        return int(told["pid"]) if told["running"] else 0

    return wait_for("admin runs", running)


@contextlib.contextmanager
def events(where: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The events from the oldest there is; each must come within `PATIENCE`."""
    with socket.create_connection(split(where), timeout=PATIENCE) as one:
        one.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: test\r\n\r\n")
        with one.makefile("r") as lines:
            yield (json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: "))


def place() -> str:
    return address("127.0.0.1", free_port())


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return float if value is None else type(value)          # a time or a latency that is not known


def test_status_is_that_of_the_command(start: StartBalancer, nameserver: StartServer) -> None:
    """And as docs/http.md has it."""
    where = place()
    balancer = start([nameserver().address, nameserver().address], workers=2, http=[where])
    wait_for("answers", lambda: answers(where))
    for _ in range(10):
        ask(balancer.address)
    balancer.wait_idle()
    process(balancer)

    def same() -> bool:
        told, said = status(where), json.loads(balancer.command("status", "--json").stdout)
        for each in (told, said):
            del each["uptime"]
            for worker in each["workers"]:
                del worker["heartbeat_age"]
        return bool(told == said)

    wait_for("the same, when the facts have been told again", same)
    assert status(where)["services"][0]["queries"] == 10
    (example,) = (json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
                  if '"closed"' in block)
    told = status(where)
    for each in (example, told):
        each["processes"] = each["processes"]["admin"]
        each["components"] = each["summaries"] = {}
        each["listen"] = list(each["listen"].values())
        each["socket_drops"] = [list(counts.values()) for counts in each["socket_drops"].values()]
        each["live"] = []
    assert shape(told) == shape(example)


def test_every_query_is_accounted_for(start: StartBalancer, nameserver: StartServer, client: OpenClient) -> None:
    """At rest queries = answers + dropped + timeouts + in flight, and each is what was sent."""
    where = place()
    good, dead = nameserver(), nameserver(silent)
    balancer = start([good.address, dead.address], workers=2, http=[where], udp_timeout="300ms", scheduler="rr")
    wait_for("answers", lambda: answers(where))
    one = client(balancer.address)
    for number in range(20):
        one.send(wire.query(ident=number))
        one.send(b"short")
    wait_for("all taken", lambda: balancer.service()["queries"] == 40)
    service = balancer.wait_idle()
    told = metrics(where)
    assert told["ns7_queries_total"] == 40
    assert told["ns7_dropped_total"] == 20
    assert told["ns7_inflight"] == 0
    assert told["ns7_answers_total"] + told["ns7_timeouts_total"] == 20
    assert (told["ns7_answers_total"], told["ns7_timeouts_total"]) == (service["answers"], service["timeouts"])
    assert told["ns7_server_queries_total"] == sum(len(server.received) for server in (good, dead))
    assert told["ns7_server_answers_total"] == told["ns7_server_latency_seconds_count"] == service["answers"]
    assert told["ns7_worker_restarts_total"] == 0


def test_ready(start: StartBalancer, nameserver: StartServer) -> None:
    where = place()
    server = nameserver().address
    start([server], http=[where])
    wait_for("answers", lambda: answers(where))
    wait_for("ready", lambda: fetch(where, "/readyz")[0] == 200)


def test_reload_moves_the_listener(start: StartBalancer, nameserver: StartServer) -> None:
    """In the same process, and without a restart of anything."""
    first, second = place(), place()
    balancer = start([nameserver().address], http=[first])
    wait_for("answers", lambda: answers(first))
    pid, workers = process(balancer), balancer.workers()
    balancer.reload(http=[second])
    wait_for("answers there", lambda: answers(second))
    wait_for("silent here", lambda: not answers(first))
    assert (process(balancer), balancer.workers()) == (pid, workers)


def test_a_taken_port_is_no_trouble(start: StartBalancer, nameserver: StartServer) -> None:
    where = place()
    with socket.create_server(split(where)):
        balancer = start([nameserver().address], http=[where])
        wait_for("a warning", lambda: f"cannot listen on {where}" in balancer.output())
        ask(balancer.address)
        process(balancer)
    wait_for("served when it is free", lambda: answers(where))
    ask(balancer.address)


@pytest.mark.long
def test_counters_never_fall_when_workers_change(start: StartBalancer, nameserver: StartServer) -> None:
    where = place()
    balancer = start([nameserver().address], workers=1, http=[where])
    wait_for("answers", lambda: answers(where))
    for asked, workers in ((10, 2), (20, 3), (30, 1)):
        for _ in range(10):
            ask(balancer.address)
        balancer.wait_idle()
        assert metrics(where)["ns7_queries_total"] == asked
        balancer.reload(workers=workers)
        wait_for("all are told", lambda asked=asked: metrics(where)["ns7_queries_total"] == asked)   # type: ignore[misc]


def test_events_are_told_as_they_happen(start: StartBalancer, nameserver: StartServer) -> None:
    where = place()
    balancer = start([nameserver().address], workers=2, http=[where])
    wait_for("answers", lambda: answers(where))
    with events(where) as told:
        victim = balancer.workers()[0]
        os.kill(victim, signal.SIGKILL)
        event = next(one for one in told if one["kind"] == "worker")
        assert (event["subject"], event["after"]) == ("worker 0", "restarted")
        balancer.reload(udp_timeout="3s")
        event = next(one for one in told if one["kind"] == "config")
        assert event["after"] == "applied"
    wait_for("restarts told", lambda: metrics(where)["ns7_worker_restarts_total"] == 1)


@pytest.mark.long
def test_killed_admin_is_replaced_and_no_query_lost(start: StartBalancer, nameserver: StartServer) -> None:
    """Ten times under load; the successor knows the events of before."""
    where = place()
    balancer = start([nameserver().address], workers=2, http=[where])
    wait_for("answers", lambda: answers(where))
    pids: list[int] = []

    def kill() -> None:
        told = balancer.status()["processes"]["admin"]
        if told["running"] and told["pid"] not in pids:
            pids.append(told["pid"])
            os.kill(told["pid"], signal.SIGKILL)

    result = load(balancer.address, 500, 4, [(tenth / 10, kill) for tenth in range(1, 38)])
    assert len(pids) >= 2
    assert result.lost == []
    wait_for("answers again", lambda: answers(where), seconds=20)
    assert process(balancer) not in pids
    with events(where) as told:
        downs = [next(one for one in told if (one["subject"], one["after"]) == ("admin", "down")) for _ in pids]
    assert len({event["id"] for event in downs}) == len(pids)


def test_it_holds_nothing_that_could_harm(start: StartBalancer, nameserver: StartServer) -> None:
    """The shared memory is mapped read-only, from descriptors that cannot be written; no right but to low ports."""
    balancer = start([nameserver().address], workers=2, http=[place()])
    pid = process(balancer)
    maps = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "memfd:" in line]
    assert len(maps) >= 4, "configuration, the past, two workers"
    assert {fields[1] for fields in maps} == {"r--s"}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if "memfd:" in str(entry.readlink()):
                flags = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text().split("flags:")[1].split()[0]
                assert int(flags, 8) & 3 == os.O_RDONLY
    rights = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "Cap" in line)
    held = {name: int(rights[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")}
    assert not any(number & ~NET_BIND_SERVICE for number in held.values()), held
    assert (held["CapInh"], held["CapAmb"]) == (0, 0)


def test_stop_is_not_held_up_by_followers(start: StartBalancer, nameserver: StartServer) -> None:
    where = place()
    balancer = start([nameserver().address], http=[where])
    wait_for("answers", lambda: answers(where))
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(events(where))
        balancer.terminate()
        balancer.wait_ended()
