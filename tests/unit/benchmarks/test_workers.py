"""The rows of `bench workers`: what a reload changes, who has survived, what the client's process tells."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import time
import tomllib
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks import goals, meter
from benchmarks.lab import Address, Lab, LabError, open_lab
from benchmarks.oneshot import Result, Slow
from benchmarks.oneshot.process import Client, parse
from benchmarks.report import Goal
from benchmarks.udp import Options, Run
from benchmarks.workers.bench import Bench, loads_table
from benchmarks.workers.reload import WORKERS, speaks_tcp, step
from benchmarks.workers.supervisor import listens, survivors
from tests.helpers.nameserver import NameServer, silent
from tests.helpers.ports import free_port

SERVERS = [Address("127.0.1.1", 15001), Address("127.0.2.1", 15002), Address("127.0.3.1", 15003)]


def bench_of(folder: Path) -> Bench:
    bench = Bench(Lab(folder), Options(), Run(), "row")
    bench.servers = cast(Any, SimpleNamespace(addresses=SERVERS))
    bench.balancer = cast(Any, SimpleNamespace(control=folder / "x.sock"))
    return bench


def test_every_reload_changes_everything_it_may(tmp_path: Path) -> None:
    bench, second = bench_of(tmp_path), Address("127.0.0.1", 15009)
    seen = [tomllib.loads(step(bench, number, second)) for number in range(goals.RELOADS + 1)]
    for before, after in itertools.pairwise(seen):
        assert before["process"]["workers"] != after["process"]["workers"]
        one, other = before["service"][0], after["service"][0]
        assert one["listen"] != other["listen"]
        assert one["listen"][0] == other["listen"][0] == str(bench.listen)
        assert {s["address"] for s in one["server"]} != {s["address"] for s in other["server"]}
        assert {s["address"] for s in one["server"]} & {s["address"] for s in other["server"]}
    assert [config["process"]["workers"] for config in seen[:3]] == list(WORKERS)


def test_lost_and_slowest_over_several_loads(tmp_path: Path) -> None:
    bench = bench_of(tmp_path)
    loads = [Result(answered=5, lost=[0.1], latest_unstalled=0.2), Result(answered=5, lost=[], latest_unstalled=0.4)]
    bench.lost("killed", loads, 0)
    bench.slowest("killed", loads, 0.3)
    bench.slowest("nothing answered", [Result()], 0.3)
    assert bench.run.goals == [
        Goal("killed: lost", "1", "≤ 0", False),
        Goal("killed: slowest answer", "0.400 s", "≤ 0.3 s", False),
        Goal("nothing answered: slowest answer", "not measured", "≤ 0.3 s", None),
    ]


def test_doubts_of_a_load_are_doubts_of_the_run(tmp_path: Path) -> None:
    bench = bench_of(tmp_path)
    bench.took("load", Result(sent=3, lost=[0.5, 0.6], doubt=["fell behind"]))
    assert bench.run.doubts == ["row, load: fell behind"]
    (details,) = bench.run.details
    assert (details["lost"], details["lost_at"], details["load"]) == (2, [0.5, 0.6], "load")


def test_table_of_loads() -> None:
    result = Result(rate=999.9, sent=2000, lost=[0.1], p50=0.0012, latest=0.5, stalls=[(1.0, 0.06), (2.0, 0.07)])
    _, _, line = loads_table([("20 kills", result)]).splitlines()
    words = line.split()
    assert words[:5] == ["20", "kills", "1,000", "2,000", "1"]
    assert words[-5:] == ["1.20", "-", "500.0", "130", "(2)"]


def test_result_of_the_process_is_read() -> None:
    told = Result(sent=2, slowest=[Slow(0.1, 0.2, 0.0)], lost=[0.5], rcodes={"NOERROR": 1})
    assert parse(json.dumps(asdict(told))) == told
    for text in ("", "Traceback", '{"nonsense": 1}'):
        with pytest.raises(LabError):
            parse(text)


def test_client_process(tmp_path: Path) -> None:
    queries = tmp_path / "queries"
    queries.write_text("a.example A\nb.example TXT\n")
    with NameServer() as server, open_lab() as lab:
        client = Client(lab, "client", server.address, queries, 100, 0.5, ["--patience", "10"])
        client.wait_until(0.1)
        assert client.second >= 0.1
        result = client.result()
        assert lab.processes == []
    assert (result.sent, result.answered) == (50, 50)
    assert result.start == pytest.approx(client.start)


def test_client_process_that_fails(tmp_path: Path) -> None:
    with open_lab() as lab:
        client = Client(lab, "client", "127.0.0.1:53", tmp_path / "missing", 100, 0.5)
        with pytest.raises(LabError, match="exit code 1"):
            client.result()


def test_who_listens() -> None:
    port = free_port()
    address = Address("127.0.0.1", port)
    assert listens(address) == []
    assert not speaks_tcp(address)
    with NameServer(port=port), socket.create_server(address):
        assert listens(address) == ["UDP", "TCP"]
        assert speaks_tcp(address)
    with NameServer(silent, port=port):
        assert listens(address) == ["UDP, silent"]


def test_survivors_are_known_by_their_start() -> None:
    child = subprocess.Popen(["sleep", "600"])
    try:
        members = {child.pid: meter.start_time(child.pid)}
        assert survivors(members) == [child.pid]
        assert survivors({child.pid: 1}) == []
        os.kill(child.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while survivors(members) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert survivors(members) == []
    finally:
        child.kill()
        child.wait()
