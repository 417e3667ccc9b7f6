"""Who shall be active, and who speaks: directors that cannot serve, that differ, that are not heard; with health."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.helpers.cluster import Cluster, failover_pid
from tests.helpers.daemon import Balancer
from tests.helpers.network import DEVICE
from tests.helpers.pair import Pair
from tests.helpers.servers import ZONE
from tests.helpers.waiting import wait_for

pytestmark = [pytest.mark.net, pytest.mark.long]

HEALTH = f'[alerts]\nflap_changes = 1000\n[health]\nzones = ["{ZONE}"]\nflap_period = "0s"\ninterval = "300ms"\n'
FOUND = 20.0            # seconds in which probes must have found something
TOLD = 25.0             # and in which what lasts ten seconds is told


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Cluster(tmp_path_factory.mktemp("standing"), more=HEALTH) as cluster:
        pair = Pair(cluster)
        yield pair
        pair.stop()


@pytest.fixture
def pair(pair: Pair) -> Pair:
    wait_for("all are up", lambda: all(states(each) == ["up", "up"] for each in pair.both), FOUND)
    wait_for("no alert", lambda: not any(alerts(each) for each in pair.both), TOLD)
    return pair


def states(balancer: Balancer) -> list[str]:
    return [server["state"] for server in balancer.service()["servers"]]


def live(balancer: Balancer) -> list[tuple[int, str]]:
    return [(server["weight"], server["state"]) for server in balancer.service()["servers"]]


def alerts(balancer: Balancer) -> list[tuple[str, str, str]]:
    """(kind, subject, state) of every open alert."""
    answer = balancer.request("alert.list")
    return [(alert["kind"], alert["subject"], alert["state"]) for alert in answer["result"]["open"]]


def of_servers(balancer: Balancer) -> list[str]:
    return [f"{subject} {state}" for kind, subject, state in alerts(balancer) if kind == "server"]


def deafen(pair: Pair, name: str) -> None:
    """No server's answer reaches this host any more; adverts and the status do."""
    for proto in ("udp", "tcp"):
        pair.cluster.network.drop(name, f"{proto} sport 53")


def test_only_the_active_director_speaks_of_servers(pair: Pair) -> None:
    """Both know; the standby holds its tongue until it hears no active one, and then tells what is still wrong."""
    cluster = pair.cluster
    pair.other_server.send_signal(signal.SIGSTOP)
    try:
        wait_for("both know", lambda: all(states(each) == ["up", "down"] for each in pair.both), FOUND)
        wait_for("the active one tells", lambda: of_servers(pair.one) == ["dns/s2 down"])
        assert of_servers(pair.other) == []
        cluster.network.cut("ns7c0")
        wait_for("it speaks itself", lambda: of_servers(pair.other) == ["dns/s2 down"], FOUND)
        cluster.network.mend("ns7c0")
        cluster.wait_holder("ns7c0")
        wait_for("silent again", lambda: of_servers(pair.other) == [], FOUND)
        wait_for("the active one tells", lambda: of_servers(pair.one) == ["dns/s2 down"], FOUND)
    finally:
        cluster.network.mend("ns7c0")
        pair.other_server.send_signal(signal.SIGCONT)
    wait_for("over", lambda: of_servers(pair.one) == [], FOUND)


def test_a_director_that_reaches_no_server_is_relieved(pair: Pair) -> None:
    cluster = pair.cluster
    deafen(pair, "ns7c0")
    try:
        cluster.wait_holder("ns7c1", FOUND)
        assert "no server can be reached" in pair.one.command("failover", "status").stdout
        assert cluster.state(pair.one)["priority"] == 1
        assert ("director", "ns7c0", "degraded") in alerts(pair.one)
        wait_for("answers", cluster.answers)
        refused = pair.one.command("failover", "takeover")
        assert refused.returncode == 2 and "cannot serve" in refused.stderr
    finally:
        cluster.network.allow("ns7c0")
    cluster.wait_holder("ns7c0", FOUND)


def test_two_that_cannot_serve_serve_from_one(pair: Pair) -> None:
    """By their word no server is well, so both are unfit; who has the address keeps it, and clients are answered."""
    more, before = pair.one.settings.more, pair.transitions()
    for balancer in pair.both:
        balancer.reload(more=more.replace(f'"{ZONE}"', '"nobody.example"'))
    wait_for("both are unfit", lambda: not any(pair.cluster.state(each)["fit"] for each in pair.both), FOUND)
    seen = pair.cluster.load(4)
    assert seen.lost == [] and seen.answered == seen.sent
    assert pair.cluster.holders() in (["ns7c0"], ["ns7c1"])
    assert pair.transitions() - before <= 2, "at most once to the one that found out later, and back"
    for balancer in pair.both:
        balancer.reload(more=more)


def test_transitions_are_told_and_live_changes_stay(pair: Pair) -> None:
    """The operator's word holds on the director that takes over, and both hosts tell of the move."""
    assert pair.one.command("server", "set", "s2", "--weight", "7").returncode == 0
    assert pair.one.command("server", "set", "s1", "--state", "down").returncode == 0
    wait_for("followed", lambda: live(pair.other) == [(1, "down"), (7, "up")])
    pair.cluster.network.cut("ns7c0")
    wait_for("it answers", pair.cluster.answers)
    assert live(pair.other) == [(1, "down"), (7, "up")]
    assert pair.other.command("server", "set", "s1", "--state", "auto").returncode == 0
    pair.cluster.network.mend("ns7c0")
    pair.cluster.wait_holder("ns7c0")
    wait_for("the newer word", lambda: states(pair.one) == ["up", "up"], FOUND)
    assert pair.one.command("server", "set", "s2", "--weight", "1").returncode == 0
    wait_for("told", lambda: f"failover {pair.cluster.vip} is active, was standby" in pair.other.output())


def test_an_address_that_was_left_behind_is_removed(pair: Pair) -> None:
    """Found at start on a host that was not active: a relic, and it would split the traffic."""
    cluster = pair.cluster
    pair.other.stop()
    cluster.network["ns7c1"].ip("address", "add", f"{cluster.vip}/32", "dev", DEVICE)
    assert cluster.holders() == ["ns7c0", "ns7c1"]
    pair.other = cluster.director("ns7c1")
    cluster.wait_holder("ns7c0", 5)
    assert "the addresses were here, and this host was not active: removed" in pair.other.output()


def test_files_that_differ_are_told(pair: Pair) -> None:
    pair.one.reload(udp_timeout="3s")
    wait_for("told", lambda: ("config", "ns7c1", "differs") in alerts(pair.one), TOLD)
    assert not [alert for alert in alerts(pair.other) if alert[0] == "config"], "the active one tells"
    victim = failover_pid(pair.one)
    os.kill(victim, signal.SIGKILL)
    wait_for("a successor", lambda: failover_pid(pair.one) not in (0, victim))
    pair.other.reload(udp_timeout="3s")
    wait_for("the same", lambda: alerts(pair.one) == [], TOLD)
    for balancer in pair.both:
        balancer.reload(udp_timeout="2s")
