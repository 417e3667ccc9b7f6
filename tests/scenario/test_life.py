"""The life of the processes: status, stop, what is in flight at the end, crashes, systemd's protocol."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import OpenClient, StartBalancer, StartServer
from tests.helpers import processes, wire
from tests.helpers.client import ask, load
from tests.helpers.daemon import Balancer, run_command
from tests.helpers.nameserver import delayed, silent
from tests.helpers.waiting import wait_for


def test_status_json(start: StartBalancer, nameserver: StartServer) -> None:
    servers = [nameserver(), nameserver()]
    balancer = start([server.address for server in servers], workers=2)
    for _ in range(10):
        ask(balancer.address)
    balancer.wait_idle()
    done = balancer.command("status", "--json")
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert status["pid"] == balancer.pid
    assert status["ready"] is True
    assert 0 <= status["uptime"] < 600
    assert {"version", "generation"} <= set(status)
    assert [worker["worker"] for worker in status["workers"]] == [0, 1]
    for worker in status["workers"]:
        assert processes.alive(worker["pid"])
        assert 0 <= worker["heartbeat_age"] < 5
        assert (worker["inflight"], worker["restarts"]) == (0, 0)
    (service,) = status["services"]
    assert (service["name"], service["listen"], service["scheduler"]) == ("dns", [balancer.address], "wlc")
    assert (service["queries"], service["answers"], service["socket_drops"]) == (10, 10, 0)
    assert [server["name"] for server in service["servers"]] == ["s1", "s2"]
    for told, server in zip(service["servers"], servers, strict=True):
        assert (told["address"], told["weight"], told["state"]) == (server.address, 1, "up")
        assert told["queries"] == len(server.received)
        assert told["bytes_out"] == told["bytes_in"] == sum(map(len, server.messages))
        assert sum(told["answers"].values()) == told["latency"]["count"] == told["queries"]
        assert 0 < told["latency"]["sum"] < 60
        assert max(told["latency"]["buckets"].values()) == told["queries"], "buckets are cumulative"


def test_status_table(start: StartBalancer, nameserver: StartServer) -> None:
    """Readable to who knows `ipvsadm -Ln`."""
    server = nameserver()
    balancer = start([server.address])
    ask(balancer.address)
    done = balancer.command("status")
    assert done.returncode == 0, done.stderr
    for word in ("dns", balancer.address, "wlc", "s1", server.address):
        assert word in done.stdout, done.stdout


def test_status_by_configuration_file(start: StartBalancer, nameserver: StartServer) -> None:
    balancer = start([nameserver().address])
    done = run_command("status", "--json", "-c", str(balancer.config))
    assert json.loads(done.stdout)["pid"] == balancer.pid


def test_stop_command(start: StartBalancer, nameserver: StartServer) -> None:
    balancer = start([nameserver().address], workers=2)
    ask(balancer.address)
    balancer.wait_idle()
    done = balancer.command("stop")
    assert done.returncode == 0, done.stderr
    balancer.wait_ended()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_flight_at_the_end_is_still_answered(
    start: StartBalancer, nameserver: StartServer, client: OpenClient, number: signal.Signals
) -> None:
    server = nameserver(delayed(0.7))
    balancer = start([server.address], udp_timeout="10s", workers=2)
    clients = [client(balancer.address) for _ in range(20)]
    for one in clients:
        one.send(wire.query(ident=5))
    server.wait(20)
    os.kill(balancer.pid, number)
    for one in clients:
        assert wire.ident(one.receive()) == 5
    balancer.wait_ended()


def test_end_waits_no_longer_than_the_timeout(
    start: StartBalancer, nameserver: StartServer, client: OpenClient
) -> None:
    server = nameserver(silent)
    balancer = start([server.address], udp_timeout="0.5s")
    client(balancer.address).send(wire.query())
    server.wait(1)
    balancer.terminate()
    balancer.wait_ended()


def test_end_under_load(start: StartBalancer, nameserver: StartServer) -> None:
    """Clients that go on asking do not keep it from ending, nor does it end in an error."""
    balancer = start([nameserver().address], workers=2)
    seen = load(balancer.address, 500, 2, [(1, balancer.terminate)], patience=0.3)
    balancer.wait_ended()
    assert seen.answered >= 400


def test_killed_worker_is_replaced(start: StartBalancer, nameserver: StartServer, client: OpenClient) -> None:
    """On the same sockets, with the same counters."""
    server = nameserver()
    balancer = start([server.address], workers=2)
    clients = [client(balancer.address) for _ in range(40)]
    for one in clients:
        one.ask(wire.query())
    balancer.wait_idle()    # what is pending would be sent again, and answered twice
    before = balancer.status()
    victim = before["workers"][0]["pid"]
    os.kill(victim, signal.SIGKILL)

    def replaced() -> bool:
        worker = balancer.status()["workers"][0]
        return bool(worker["pid"] not in (victim, 0) and worker["restarts"] == 1)

    wait_for("a new worker", replaced)
    for one in clients:
        one.ask(wire.query())
    balancer.wait_idle()
    after = balancer.status()
    assert after["workers"][1]["pid"] == before["workers"][1]["pid"]
    assert after["workers"][1]["restarts"] == 0
    assert after["services"][0]["queries"] == 80
    assert after["services"][0]["answers"] == 80
    assert after["services"][0]["servers"][0]["queries"] == 80


@pytest.mark.long
def test_counters_never_decrease_while_workers_are_killed(
    start: StartBalancer, nameserver: StartServer
) -> None:
    """Three kills under load; what is asked after the last is all answered."""
    balancer = start([nameserver().address], workers=2)
    seen: list[tuple[int, int, int]] = []

    def look() -> None:
        service = balancer.service()
        seen.append((service["queries"], service["answers"], service["servers"][0]["queries"]))

    def kill() -> None:
        os.kill(balancer.workers()[len(seen) % 2], signal.SIGKILL)

    schedule: list[tuple[float, Callable[[], object]]] = [(tenth / 10, look) for tenth in range(60)]
    schedule += [(1.05, kill), (2.05, kill), (3.05, kill)]
    result = load(balancer.address, 300, 6, sorted(schedule, key=lambda item: item[0]))
    for before, after in pairwise(seen):
        assert all(old <= new for old, new in zip(before, after, strict=True)), f"{before} then {after}"
    wait_for(
        "all workers counted", lambda: sum(worker["restarts"] for worker in balancer.status()["workers"]) == 3
    )
    assert [second for second in result.lost if second > 5] == []


def test_frozen_worker_does_not_stop_the_other(
    start: StartBalancer, nameserver: StartServer, client: OpenClient
) -> None:
    """What waits in its sockets is answered when it goes on."""
    balancer = start([nameserver().address], workers=2)
    clients = [client(balancer.address) for _ in range(32)]
    with balancer.frozen():
        for one in clients:
            one.send(wire.query(ident=1))
    assert {wire.ident(one.receive()) for one in clients} == {1}


def test_killed_supervisor_takes_its_workers_along(start: StartBalancer, nameserver: StartServer) -> None:
    balancer = start([nameserver().address], workers=2)
    ask(balancer.address)
    members = processes.tree(balancer.pid)
    assert set(balancer.workers()) <= set(members)
    os.kill(balancer.pid, signal.SIGKILL)
    wait_for("all processes gone", lambda: not processes.survivors(members))
    balancer.kill()


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], list[str]]]]:
    """A socket in systemd's place, and what was said to it so far, line by line."""
    path = tmp_path / "notify"
    said: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.setblocking(False)

        def listen() -> list[str]:
            while True:
                try:
                    said.extend(sock.recv(4096).decode().splitlines())
                except BlockingIOError:
                    return list(said)

        yield path, listen


def test_systemd_is_told(
    start: StartBalancer, nameserver: StartServer, notified: tuple[Path, Callable[[], list[str]]]
) -> None:
    """READY=1 when it listens, WATCHDOG=1 while it lives, STOPPING=1 when it ends (sd_notify(3))."""
    path, said = notified
    environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "600000"}
    balancer = start([nameserver().address], env=environment)
    wait_for("READY=1", lambda: "READY=1" in said())
    ask(balancer.address)
    wait_for("three signs of life", lambda: said().count("WATCHDOG=1") >= 3)
    assert "STOPPING=1" not in said()
    balancer.terminate()
    balancer.wait_ended()
    assert "STOPPING=1" in said()
    assert said().count("READY=1") == 1


def test_systemd_is_told_of_a_reload(
    start: StartBalancer, nameserver: StartServer, notified: tuple[Path, Callable[[], list[str]]]
) -> None:
    path, said = notified
    balancer = start([nameserver().address], env={"NOTIFY_SOCKET": str(path)})
    os.kill(balancer.pid, signal.SIGHUP)
    wait_for("READY=1 again", lambda: said().count("READY=1") == 2)


def test_nothing_happens_for_a_while(start: StartBalancer, nameserver: StartServer) -> None:
    """An idle ns7 stays what it is: same processes, no restarts, heartbeats young."""
    balancer = start([nameserver().address], workers=2)
    before = balancer.workers()
    time.sleep(2.5)
    status = balancer.status()
    assert [worker["pid"] for worker in status["workers"]] == before
    assert all(worker["heartbeat_age"] < 2 for worker in status["workers"])
    assert all(worker["restarts"] == 0 for worker in status["workers"])


def test_log_says_nothing_per_packet(
    start: StartBalancer, nameserver: StartServer, client: OpenClient
) -> None:
    balancer: Balancer = start([nameserver().address])
    one = client(balancer.address)
    one.ask(wire.query())
    before = len(balancer.output().splitlines())
    for _ in range(200):
        one.send(b"nonsense")
        one.ask(wire.query())
    assert len(balancer.output().splitlines()) - before < 10


def test_one_worker_per_core(start: StartBalancer, nameserver: StartServer) -> None:
    balancer = start([nameserver().address], workers=0)
    assert len(balancer.workers()) == len(os.sched_getaffinity(0))
    ask(balancer.address)


def test_status_rates(start: StartBalancer, nameserver: StartServer) -> None:
    """Over a short time, and again and again; not a terminal, so one table after the other."""
    balancer = start([nameserver().address])
    done = balancer.command("status", "--rate", "--interval", "0.2")
    assert done.returncode == 0 and "QPS" in done.stdout and "0 queries/s" in done.stdout, done
    done = balancer.command("status", "--watch", "--interval", "0.1", "--count", "3")
    assert done.returncode == 0 and done.stdout.count("QPS") == 3, done
    done = balancer.command("status", "--watch", "--interval", "0.1", "--count", "2", "--json")
    assert [json.loads(line)["pid"] for line in done.stdout.splitlines() if line] == [balancer.pid] * 2
