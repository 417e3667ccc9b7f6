"""Reload of what only other workers can bring: listen addresses, number of workers, services, buffers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest

from tests.conftest import OpenClient, StartBalancer, StartServer
from tests.helpers import processes, wire
from tests.helpers.client import Client, ask, load
from tests.helpers.nameserver import delayed, silent
from tests.helpers.ports import free_address, free_port
from tests.helpers.waiting import wait_for


def test_workers_come_and_go_without_a_lost_query(start: StartBalancer, nameserver: StartServer) -> None:
    """1 → 4 → 2 → 1 under load: nothing lost, counters never fall, the old workers end."""
    balancer = start([nameserver(delayed(0.05)).address, nameserver().address], workers=1)
    first = balancer.workers()
    seen: list[tuple[int, int, int]] = []

    def look() -> None:
        service = balancer.service()
        seen.append((service["queries"], service["answers"], sum(one["queries"] for one in service["servers"])))

    steps: list[tuple[float, Callable[[], object]]] = [
        (0.5 + 1.2 * step, partial(balancer.reload, workers=workers)) for step, workers in enumerate((4, 2, 1))
    ]
    steps += [(tenth / 10 + 0.03, look) for tenth in range(45)]
    result = load(balancer.address, 500, 5, sorted(steps, key=lambda step: step[0]))
    assert result.lost == []
    for before, after in pairwise(seen):
        assert all(old <= new for old, new in zip(before, after, strict=True)), f"{before} then {after}"
    assert len(balancer.workers()) == 1
    wait_for("the first worker ended", lambda: not any(processes.alive(pid) for pid in first))
    wait_for("no crew retires", lambda: balancer.status()["retiring"] == 0)
    service = balancer.wait_idle()
    assert service["queries"] == result.sent + result.twice


def test_listen_addresses_change_under_load(start: StartBalancer, nameserver: StartServer) -> None:
    """The address that stays loses nothing; the new one answers, the old one does not any more."""
    port = free_port("127.0.0.1", "127.0.0.2", "127.0.0.3")
    stays, goes, comes = (f"127.0.0.{host}:{port}" for host in (1, 2, 3))
    balancer = start([nameserver().address], listen=[stays, goes], workers=2)
    ask(goes)
    seen = load(balancer.address, 500, 2, [(0.7, partial(balancer.reload, listen=[stays, comes]))])
    assert seen.lost == []
    ask(comes)
    wait_for("no crew retires", lambda: balancer.status()["retiring"] == 0)
    with Client(goes) as client, pytest.raises(ConnectionRefusedError):
        for _ in range(50):
            client.send(wire.query())
            client.nothing_comes(0.05)
    assert balancer.service()["listen"] == [stays, comes]


def test_what_waits_in_a_retired_socket_is_answered(
    start: StartBalancer, nameserver: StartServer, client: OpenClient
) -> None:
    """Queries queued at a worker that is stopped and then retired: closing its socket would lose them."""
    balancer = start([nameserver().address], workers=2)
    clients = [client(balancer.address) for _ in range(40)]
    old = balancer.workers()
    with balancer.frozen():
        for one in clients:
            one.send(wire.query(ident=7))
        os.kill(balancer.pid, signal.SIGSTOP)       # it must see neither the standstill nor the end of it
        os.kill(balancer.pid, signal.SIGCONT)
    balancer.reload(workers=1)
    assert {wire.ident(one.receive()) for one in clients} == {7}
    wait_for("old workers ended", lambda: not any(processes.alive(pid) for pid in old))


def test_retired_workers_answer_what_is_in_flight(
    start: StartBalancer, nameserver: StartServer, client: OpenClient
) -> None:
    """Even when one of them is killed meanwhile: its successor goes on."""
    server = nameserver(silent)
    balancer = start([server.address], workers=2, udp_timeout="10s")
    clients = [client(balancer.address) for _ in range(20)]
    for one in clients:
        one.send(wire.query(ident=3))
    asked = server.wait(20)
    old = balancer.workers()
    balancer.reload(workers=1)
    os.kill(old[0], signal.SIGKILL)
    wait_for("killed", lambda: not processes.alive(old[0]))
    server.answer_all(asked)
    assert {wire.ident(one.receive()) for one in clients} == {3}
    wait_for("no crew retires", lambda: balancer.status()["retiring"] == 0)


def test_port_that_is_taken_refuses_the_reload(start: StartBalancer, nameserver: StartServer) -> None:
    balancer = start([nameserver().address])
    with Client(balancer.address) as blocker:
        taken = "127.0.0.1:" + str(blocker.address[1])
        balancer.rewrite(listen=[balancer.address, taken])
        done = balancer.command("reload")
    assert done.returncode == 2
    assert taken in done.stderr and "taken" in done.stderr
    ask(balancer.address)
    assert balancer.service()["listen"] == [balancer.settings.listen[0]]


def test_services_come_and_go(start: StartBalancer, nameserver: StartServer) -> None:
    """More often than there are slots for them; the one that stays keeps its counters."""
    first, second = nameserver(), nameserver()
    balancer = start([first.address])
    plain = balancer.config.read_text()
    ask(balancer.address)
    for change in range(6):
        address = free_address()
        balancer.config.write_text(
            plain + f'[[service]]\nname = "extra{change}"\nlisten = ["{address}"]\nslow_start = "0s"\n'
            f'[[service.server]]\nname = "x"\naddress = "{second.address}"\n'
        )
        assert balancer.request("reload")["ok"]
        ask(address)
        ask(balancer.address)
        services = balancer.status()["services"]
        assert [service["name"] for service in services] == ["dns", f"extra{change}"]
        assert (services[0]["queries"], services[1]["queries"]) == (change + 2, 1)
    balancer.config.write_text(plain)
    assert balancer.request("reload")["ok"]
    wait_for("no crew retires", lambda: balancer.status()["retiring"] == 0)
    assert balancer.service()["queries"] == 7


def test_slow_start(start: StartBalancer, nameserver: StartServer, client: OpenClient) -> None:
    """A server that is added takes little at first, its full share in the end."""
    old, new = nameserver(), nameserver()
    balancer = start([old.address], slow_start="4s")
    balancer.reload(servers=[old.address, new.address])
    one = client(balancer.address)
    for _ in range(50):
        one.ask(wire.query())
    early = len(new.received)
    assert early <= 20, f"{early} of 50 at once"
    wait_for("grown", lambda: _share(one, new, 40) >= 0.45, 30)


def _share(client: Client, server: object, count: int) -> float:
    before = len(server.received)  # type: ignore[attr-defined]
    for _ in range(count):
        client.ask(wire.query())
    return (len(server.received) - before) / count  # type: ignore[attr-defined, no-any-return]


def test_listener_that_goes_and_comes_again_at_once(start: StartBalancer, nameserver: StartServer) -> None:
    """While the crew that had it still answers what is in flight: the port is ours, not another program's."""
    server = nameserver(silent)
    stays, moves = free_address(), free_address()
    balancer = start([server.address], listen=[stays, moves], udp_timeout="8s")
    with Client(moves) as client:
        client.send(wire.query())
        asked = server.wait(1)
        balancer.reload(listen=[stays])
        assert balancer.status()["retiring"] == 1
        balancer.reload(listen=[stays, moves])
        server.answer_all(asked)
        client.receive()
    server.handler = delayed(0)
    ask(moves)
