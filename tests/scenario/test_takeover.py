"""Workers that own nothing: one that dies or hangs is replaced, and no query is lost."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest

from tests.conftest import OpenClient, StartBalancer, StartServer
from tests.helpers import processes, wire
from tests.helpers.client import load
from tests.helpers.daemon import Balancer
from tests.helpers.nameserver import delayed, silent
from tests.helpers.waiting import wait_for


def _strike(balancer: Balancer, number: signal.Signals, count: int) -> None:
    pids = [pid for pid in balancer.workers() if pid]
    os.kill(pids[count % len(pids)], number)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_killed_again_and_again_under_load(start: StartBalancer, nameserver: StartServer, workers: int) -> None:
    """Patient, for a busy machine may need seconds to start the next spare; how long it takes is for the benchmarks."""
    balancer = start([nameserver(delayed(0.02)).address, nameserver().address], workers=workers, udp_timeout="15s")
    kills = [(0.5 + 1.2 * count, partial(_strike, balancer, signal.SIGKILL, count)) for count in range(5)]
    seen = load(balancer.address, 800, 7, kills, patience=15)
    assert seen.lost == []
    service = balancer.wait_idle()
    assert sum(worker["restarts"] for worker in balancer.status()["workers"]) == 5
    assert service["timeouts"] == 0
    assert abs(service["queries"] - seen.sent) <= 5 * 64, "within one batch per crash"


def test_hung_worker_is_replaced(start: StartBalancer, nameserver: StartServer) -> None:
    balancer = start([nameserver().address], workers=2, worker_timeout="500ms", udp_timeout="15s")
    seen = load(balancer.address, 500, 4, [(0.5, partial(_strike, balancer, signal.SIGSTOP, 0))], patience=15)
    assert seen.lost == []
    wait_for("replaced", lambda: balancer.status()["workers"][0]["restarts"] == 1)
    assert "no sign of life" in balancer.output()


def test_pending_queries_are_sent_once_more(
    start: StartBalancer, nameserver: StartServer, client: OpenClient
) -> None:
    """What the worker's successor finds pending goes out again with the same id; one answer reaches the client."""
    server = nameserver(silent)
    balancer = start([server.address], udp_timeout="20s")
    one = client(balancer.address)
    asked = [wire.query(f"n{number}.example", ident=number) for number in range(30)]
    asked.append(wire.query("long.example", ident=99) + bytes(900))
    for data in asked:
        one.send(data)
    first = server.wait(len(asked))
    os.kill(balancer.workers()[0], signal.SIGKILL)
    again = server.wait(2 * len(asked))[len(asked) :]
    assert sorted(one.data for one in again) == sorted(one.data for one in first)
    assert balancer.server()["inflight"] == len(asked)
    server.answer_all(again)
    server.answer_all(first)
    assert sorted(wire.ident(one.receive()) for _ in asked) == sorted(wire.ident(data) for data in asked)
    one.nothing_comes()
    service = balancer.wait_idle()
    assert (service["queries"], service["answers"]) == (len(asked), len(asked))
    assert service["servers"][0]["resends"] == len(asked)


def test_update_is_never_sent_again(start: StartBalancer, nameserver: StartServer, client: OpenClient) -> None:
    """Its answer is still waited for."""
    server = nameserver(silent)
    balancer = start([server.address], udp_timeout="20s", admit={"update": ["127.0.0.0/8"]})
    one = client(balancer.address)
    one.send(wire.query("zone.example", "SOA", opcode="UPDATE", ident=77))
    asked = server.wait(1)
    victim = balancer.workers()[0]
    os.kill(victim, signal.SIGKILL)
    wait_for("a successor", lambda: balancer.workers()[0] not in (0, victim))
    one.nothing_comes(0.3)
    assert len(server.received) == 1
    server.answer_all(asked, lambda data: wire.header_only(data, "NOERROR"))
    assert wire.ident(one.receive()) == 77


def test_answers_that_wait_for_a_successor_are_relayed(
    start: StartBalancer, nameserver: StartServer, client: OpenClient
) -> None:
    """The servers answer while nobody listens: the sockets keep it, nothing is asked twice."""
    server = nameserver(silent)
    balancer = start([server.address], udp_timeout="20s")
    clients = [client(balancer.address) for _ in range(200)]
    for one in clients:
        one.send(wire.query(ident=11))
    asked = server.wait(200)
    with balancer.frozen():
        server.answer_all(asked)
        os.kill(balancer.workers()[0], signal.SIGKILL)
    assert {wire.ident(one.receive()) for one in clients} == {11}
    assert len(server.received) == 200


def test_spare_that_is_killed_is_replaced(start: StartBalancer, nameserver: StartServer) -> None:
    balancer = start([nameserver().address])
    worker = balancer.workers()[0]

    def spare() -> int | None:
        workers = [pid for pid in processes.children_of(balancer.pid) if processes.role(pid) == "worker"]
        return next((pid for pid in workers if pid != worker), None)

    first = wait_for("a spare", spare)
    os.kill(first, signal.SIGKILL)
    wait_for("another spare", lambda: spare() not in (None, first))
    assert balancer.workers() == [worker]
