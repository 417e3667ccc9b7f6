"""Two directors without any IPv4: adverts, announcements, probes, the status and the traffic have IPv6 alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from failover import frames
from tests.helpers.cluster import VIP6, VRID, Cluster
from tests.helpers.network import DEVICE
from tests.helpers.pair import Pair
from tests.helpers.waiting import wait_for

pytestmark = [pytest.mark.net, pytest.mark.long]


@pytest.fixture(scope="module", params=[False, True], ids=["multicast", "unicast"])
def built(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Pair]:
    with Cluster(tmp_path_factory.mktemp("cluster6"), vips=[VIP6], peers=request.param) as cluster:
        pair = Pair(cluster)
        yield pair
        pair.stop()


def test_one_holds_the_address(pair: Pair) -> None:
    cluster = pair.cluster
    assert " inet " not in cluster.network["ns7c0"].run("ip", "address", "show", DEVICE)
    one, other = cluster.state(pair.one), cluster.state(pair.other)
    assert (one["state"], other["state"], other["peer_priority"]) == ("active", "standby", 200)
    assert one["directors"]["ns7c1"]["fit"] and other["directors"]["ns7c0"]["fit"]
    shown = cluster.network["ns7c0"].run("ip", "address", "show", DEVICE)
    assert f"inet6 {VIP6}/128" in shown and f"inet6 {frames.link_local(VRID)}/128" in shown
    assert not [name for name in (*one["counts"], *other["counts"]) if name.startswith(("dropped", "unsent"))]


def test_release_and_return_lose_nothing(pair: Pair) -> None:
    cluster, held = pair.cluster, []

    def say(verb: str) -> None:
        assert pair.one.command("failover", verb).returncode == 0
        held.append(cluster.holders())

    seen = cluster.load(5, [(0.7, lambda: say("release")), (2.5, lambda: say("auto"))])
    assert held[0] == ["ns7c1"] and seen.lost == [] and seen.wrong == 0 and seen.answered == seen.sent
    cluster.wait_holder("ns7c0")
    wait_for("the client knows", lambda: cluster.neighbour("client") == cluster.mac("ns7c0"))


def test_a_director_that_is_cut_off_is_followed(pair: Pair) -> None:
    cluster = pair.cluster
    seen = cluster.load(3, [(1.0, lambda: cluster.network.cut("ns7c0"))], patience=0.5)
    assert cluster.holders() == ["ns7c0", "ns7c1"] and 0 < len(seen.lost) < 3000
    assert cluster.answers()
    cluster.network.mend("ns7c0")
    cluster.wait_holder("ns7c0", 5)
    wait_for("the client knows", lambda: cluster.neighbour("client") == cluster.mac("ns7c0"))


def test_a_stranger_that_has_the_address_is_noticed(pair: Pair) -> None:
    """The probe before a takeover is a solicitation, and hears who answers beside the active director."""
    cluster, host = pair.cluster, pair.cluster.network["ns7c2"]
    host.ip("address", "add", f"{VIP6}/128", "dev", DEVICE, "nodad")
    try:
        refused = pair.other.command("failover", "takeover")
        assert refused.returncode == 2 and f"address {VIP6} is taken" in refused.stderr, refused
        assert cluster.holders() == ["ns7c0"]
        assert f"held by {cluster.mac('ns7c2')}" in pair.other.output()
    finally:
        host.ip("address", "del", f"{VIP6}/128", "dev", DEVICE)
    assert pair.other.command("failover", "takeover").returncode == 0
    cluster.wait_holder("ns7c1", 3)


def test_an_address_that_somebody_removes_comes_back(pair: Pair) -> None:
    cluster = pair.cluster
    cluster.network["ns7c0"].ip("address", "del", f"{VIP6}/128", "dev", DEVICE)
    wait_for("it is there again", lambda: cluster.holders() == ["ns7c0"], 3)
    wait_for("answers", cluster.answers)


def test_poisoned_caches_are_healed(pair: Pair) -> None:
    cluster = pair.cluster
    cluster.network["client"].ip("neigh", "replace", VIP6, "lladdr", "02:00:00:00:00:66", "nud", "stale", "dev", DEVICE)
    assert pair.one.command("arp").returncode == 0
    wait_for("the true address", lambda: cluster.neighbour("client") == cluster.mac("ns7c0"))


def test_what_operators_change_follows(pair: Pair) -> None:
    assert pair.one.command("server", "drain", "s2").returncode == 0
    wait_for("drained there", lambda: pair.other.service()["servers"][1]["state"] == "drained")
    assert pair.one.command("server", "set", "s2", "--state", "auto").returncode == 0
    wait_for("back there", lambda: pair.other.service()["servers"][1]["state"] == "up")
