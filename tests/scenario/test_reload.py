"""Reload: a changed file is applied without losing a query, a bad one is refused and nothing changes."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest

from tests.conftest import OpenClient, StartBalancer, StartServer
from tests.helpers import wire
from tests.helpers.client import ask, load
from tests.helpers.config import Server
from tests.helpers.nameserver import delayed, silent
from tests.helpers.waiting import wait_for


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_no_query_is_lost(start: StartBalancer, nameserver: StartServer, workers: int) -> None:
    """Weights changed, a server added, one removed, one replaced, under 500 queries per second."""
    one, two, three = (nameserver(delayed(0.02)) for _ in range(3))
    balancer = start([one.address, two.address], workers=workers)
    changes = [
        [Server(one.address, 5), Server(two.address, 1)],
        [Server(one.address), Server(two.address), Server(three.address)],
        [Server(two.address), Server(three.address)],
        [Server(one.address, name="s9"), Server(three.address, 0), Server(two.address)],
    ]
    seen = load(
        balancer.address,
        500,
        4,
        [(0.5 + 0.8 * step, partial(balancer.reload, servers=to)) for step, to in enumerate(changes)],
    )
    assert seen.lost == []
    assert seen.twice == 0
    assert len(three.received) > 0
    assert balancer.dropped() == {}


def test_hangup_reloads(start: StartBalancer, nameserver: StartServer) -> None:
    old, new = nameserver(), nameserver()
    balancer = start([old.address])
    generation = balancer.status()["generation"]
    balancer.rewrite(servers=[new.address])
    os.kill(balancer.pid, signal.SIGHUP)
    wait_for("a new generation", lambda: balancer.status()["generation"] > generation)
    wait_for("the new server is asked", lambda: ask(balancer.address) and new.received)
    before = len(old.received)
    for _ in range(20):
        ask(balancer.address)
    assert len(old.received) == before


def test_weights_count_at_once(start: StartBalancer, nameserver: StartServer, client: OpenClient) -> None:
    one, two = nameserver(), nameserver()
    balancer = start([one.address, two.address])
    balancer.reload(servers=[Server(one.address, 0), Server(two.address, 3)])
    asking = client(balancer.address)
    assert [server["state"] for server in balancer.service()["servers"]] == ["drained", "up"]
    one.received.clear()
    for _ in range(50):
        asking.ask(wire.query())
    assert len(one.received) <= 1, "but for what a worker read before it saw the change"
    assert balancer.server(1)["weight"] == 3


def test_removed_server_may_still_answer(
    start: StartBalancer, nameserver: StartServer, client: OpenClient
) -> None:
    old, new = nameserver(silent), nameserver()
    balancer = start([old.address], udp_timeout="20s")
    one = client(balancer.address)
    one.send(wire.query(ident=1))
    received = old.wait(1)
    balancer.reload(servers=[new.address])
    wait_for("the new server is asked", lambda: ask(balancer.address) and new.received)
    old.answer_all(received)
    assert wire.ident(one.receive()) == 1


def test_counters_survive(start: StartBalancer, nameserver: StartServer, client: OpenClient) -> None:
    one, two = nameserver(), nameserver()
    balancer = start([one.address])
    asking = client(balancer.address)
    for _ in range(10):
        asking.ask(wire.query())
    balancer.reload(servers=[one.address, two.address])
    for _ in range(10):
        asking.ask(wire.query())
    service = balancer.wait_idle()
    assert (service["queries"], service["answers"]) == (20, 20)
    first, second = (server["queries"] for server in service["servers"])
    assert first + second == 20
    assert 4 <= second <= 6


def test_new_timeout_counts(start: StartBalancer, nameserver: StartServer, client: OpenClient) -> None:
    balancer = start([nameserver(silent).address], udp_timeout="60s")
    balancer.reload(udp_timeout="0.2s")
    client(balancer.address).send(wire.query())
    wait_for("timed out", lambda: balancer.service()["timeouts"] == 1)


def test_what_needs_a_restart_is_told(start: StartBalancer, nameserver: StartServer) -> None:
    """Refused as a whole; the file's other changes are not applied either."""
    server = nameserver()
    balancer = start([server.address])
    balancer.rewrite(servers=[Server(server.address, 9)])
    text = balancer.config.read_text().replace("state_dir = ", 'state_dir = "/elsewhere" #')
    balancer.config.write_text(text)
    done = balancer.command("reload")
    assert done.returncode == 2, done
    assert "process.state_dir" in done.stderr
    assert balancer.server()["weight"] == 1
    ask(balancer.address)


@pytest.mark.parametrize("how", ["command", "SIGHUP"])
def test_bad_file_is_refused(
    start: StartBalancer, nameserver: StartServer, client: OpenClient, how: str
) -> None:
    """All of it is refused, also the part that was good."""
    old, new = nameserver(), nameserver()
    balancer = start([old.address])
    generation = balancer.status()["generation"]
    balancer.rewrite(servers=[new.address])
    good = balancer.config.read_text()
    bad = good.replace("udp_timeout", "udp_timeuot").replace("workers = 1", "workers = 99")
    balancer.config.write_text(bad)
    if how == "command":
        done = balancer.command("reload")
        assert done.returncode == 2, done
        for word in ("udp_timeuot", "workers", "99"):
            assert word in done.stderr, "all errors are told together"
    else:
        os.kill(balancer.pid, signal.SIGHUP)
        wait_for("the error in the log", lambda: "udp_timeuot" in balancer.output())
    one = client(balancer.address)
    for _ in range(20):
        one.ask(wire.query())
    assert (len(old.received), len(new.received)) == (20, 0)
    assert balancer.status()["generation"] == generation
    balancer.config.write_text(good)
    assert balancer.command("reload").returncode == 0
    wait_for("the new server is asked", lambda: one.ask(wire.query()) and new.received)


def test_unchanged_file(start: StartBalancer, nameserver: StartServer) -> None:
    """Reloading again and again changes and breaks nothing."""
    balancer = start([nameserver().address])
    workers = balancer.workers()
    for _ in range(5):
        assert balancer.request("reload")["ok"]
        ask(balancer.address)
    assert balancer.workers() == workers


def test_many_replacements(start: StartBalancer, nameserver: StartServer, client: OpenClient) -> None:
    """Addresses come and go; the slots of the removed are used again (more changes than there are slots)."""
    servers = [nameserver(host=f"127.0.0.{host}") for host in (2, 3)]
    balancer = start([servers[0].address])
    one = client(balancer.address)
    for change in range(300):
        server = servers[change % 2]
        balancer.rewrite(servers=[Server(server.address, name=f"s{change}")])
        answer = balancer.request("reload")
        assert answer["ok"], f"change {change}: {answer}"
        one.ask(wire.query())
    assert balancer.service()["queries"] == 300
