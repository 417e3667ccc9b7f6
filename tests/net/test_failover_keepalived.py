"""keepalived, as Debian has it, as the other director: in both roles the same takeovers, and no advert rejected."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.helpers.cluster import Cluster
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.net

INTERVAL = 0.3
REJECTED = ("nvalid", "rror", "ejected", "mismatch", "bogus", "iscarded")


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.long)], ids=["multicast", "unicast"])
def cluster(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("keepalived"), peers=request.param) as cluster:
        cluster.serve("ns7c1")
        cluster.serve("ns7c2")
        yield cluster


def complaints(log: str) -> list[str]:
    """What keepalived says of adverts that it does not obey."""
    return [line for line in log.splitlines() if any(word in line for word in REJECTED)]


@pytest.mark.long
def test_both_roles(cluster: Cluster) -> None:
    one = cluster.director("ns7c0")                                     # priority 200
    cluster.wait_holder("ns7c0")
    peer = cluster.keepalived("ns7c1", 100)

    def log() -> str:
        return cluster.keepalived_log("ns7c1")

    wait_for("keepalived is up", lambda: "BACKUP STATE" in log())

    def release() -> None:
        assert one.command("failover", "release").returncode == 0

    release()                                                           # keepalived takes over at our priority 0
    cluster.wait_holder("ns7c1")
    assert "MASTER STATE" in log()
    assert one.command("failover", "auto").returncode == 0              # we preempt
    cluster.wait_holder("ns7c0")
    wait_for("it has yielded", lambda: log().rstrip().count("BACKUP STATE") >= 2)
    one.command("stop")                                                 # and once more, by the end of ns7
    cluster.wait_holder("ns7c1")
    one.wait_ended()
    one = cluster.director("ns7c0")
    cluster.wait_holder("ns7c0")
    cluster.network.cut("ns7c0")                                        # keepalived finds us dead
    wait_for("keepalived is master", lambda: "ns7c1" in cluster.holders())
    cluster.network.mend("ns7c0")
    cluster.wait_holder("ns7c0")
    peer.send_signal(signal.SIGTERM)
    peer.wait(10)
    assert complaints(log()) == []

    peer = cluster.keepalived("ns7c1", 250)              # now it is the better one
    cluster.wait_holder("ns7c1")
    state = cluster.state(one)
    assert (state["state"], state["peer"], state["peer_priority"]) == ("standby", "192.0.2.88", 250)
    peer.send_signal(signal.SIGTERM)                                    # its priority 0
    cluster.wait_holder("ns7c0")
    peer.wait(10)
    peer = cluster.keepalived("ns7c1", 250)
    cluster.wait_holder("ns7c1")
    peer.kill()                                                         # found dead, its address stays on its host
    wait_for("we have it", lambda: "ns7c0" in cluster.holders())
    assert cluster.answers()
    dropped = {name: count for name, count in cluster.state(one)["counts"].items() if name.startswith("dropped")}
    assert not dropped and complaints(log()) == [], log()
    one.stop()
