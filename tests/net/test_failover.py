"""Two directors in namespaces, real BIND behind them: the address moves, and no query is lost that need not be."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from failover import frames
from failover.advert import PROTOCOL
from failover.frames import parse
from tests.helpers import processes
from tests.helpers.arrival import ANCILLARY, arrived, stamp
from tests.helpers.cluster import VIP, VIP6, VRID, Cluster, failover_pid, signal_all
from tests.helpers.daemon import COMMAND, Balancer
from tests.helpers.network import DEVICE
from tests.helpers.pair import Pair
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.net

INTERVAL = 0.3
DOWN = 3 * INTERVAL + (256 - 100) * INTERVAL / 256      # of the standby


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Cluster(tmp_path_factory.mktemp("cluster"), vips=[VIP, VIP6]) as cluster:
        pair = Pair(cluster)
        yield pair
        pair.stop()


@contextlib.contextmanager
def adverts(cluster: Cluster) -> Iterator[list[tuple[float, str, int]]]:
    """The IPv4 adverts that the client's host has heard: (time, sender, priority), when the block has ended."""
    heard: list[tuple[float, str, int]] = []
    host = cluster.network["client"]
    with host.socket(socket.AF_INET, socket.SOCK_RAW, PROTOCOL) as one:
        stamp(one)
        member = frames.GROUP4.packed + socket.inet_aton(host.address4)
        one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        yield heard
        one.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, ancillary, _, _ = one.recvmsg(2048, ANCILLARY)
                heard.append((arrived(ancillary), socket.inet_ntoa(packet[12:16]), packet[22]))


def test_one_holds_the_address_and_both_families_move(pair: Pair) -> None:
    cluster = pair.cluster
    one, other = cluster.state(pair.one), cluster.state(pair.other)
    assert (one["state"], other["state"], other["peer"]) == ("active", "standby", "192.0.2.87")
    wait_for("its status", lambda: cluster.state(pair.one)["directors"]["ns7c1"]["fit"])
    wait_for("its status", lambda: cluster.state(pair.other)["directors"]["ns7c0"]["active"])
    for balancer, standing in ((pair.one, "active"), (pair.other, "standby")):
        wait_for(standing, lambda of=balancer, is_=standing: of.status()["standing"] == is_)     # type: ignore[misc]
    shown = cluster.network["ns7c0"].run("ip", "address", "show", DEVICE)
    assert f"inet {VIP}/32 scope global dynamic noprefixroute" in shown
    assert f"inet6 {VIP6}/128" in shown and f"inet6 {frames.link_local(VRID)}/128" in shown
    with cluster.network["client"].entered():
        wait_for("IPv6 is served", lambda: cluster.answers(VIP6))


def test_release_and_return_lose_nothing(pair: Pair) -> None:
    """`ns7 failover release`, then the better director's preempting return, under load."""
    cluster, said = pair.cluster, []

    def say(verb: str) -> None:
        done = pair.one.command("failover", verb)
        said.append((done.returncode, done.stdout + done.stderr, cluster.holders()))

    seen = cluster.load(5, [(0.7, lambda: say("release")), (2.5, lambda: say("auto"))])
    assert said[0][0] == 0 and said[0][2] == ["ns7c1"], said
    assert seen.lost == [] and seen.wrong == 0 and seen.answered == seen.sent
    cluster.wait_holder("ns7c0")
    assert cluster.neighbour("client") == cluster.mac("ns7c0")


@pytest.mark.long
def test_takeover_by_command(pair: Pair) -> None:
    cluster = pair.cluster
    seen = cluster.load(2, [(0.5, lambda: pair.other.command("failover", "takeover"))])
    assert seen.lost == [] and cluster.holders() == ["ns7c1"]
    refused = pair.one.command("failover", "takeover")
    assert refused.returncode == 2 and "release first" in refused.stderr
    done = pair.other.command("arp")
    assert done.returncode == 0 and VIP in done.stdout
    assert "not active" in pair.one.command("arp").stderr


def test_a_director_that_is_cut_off_is_followed(pair: Pair) -> None:
    cluster = pair.cluster
    seen = cluster.load(3, [(1.0, lambda: cluster.network.cut("ns7c0"))], patience=0.5)
    assert cluster.holders() == ["ns7c0", "ns7c1"], "nobody tells the one that is cut off"
    assert 0 < len(seen.lost) <= 1000 * (DOWN + 2.0)
    assert cluster.answers()
    cluster.network.mend("ns7c0")
    cluster.wait_holder("ns7c0", 2)
    assert cluster.neighbour("client") == cluster.mac("ns7c0")


def test_the_spare_goes_on_at_once(pair: Pair) -> None:
    """SIGKILL of the failover process: no transition, nothing lost, no advert missing for long."""
    cluster, before = pair.cluster, pair.transitions()
    victim = failover_pid(pair.one)
    wait_for("a spare", lambda: sum(processes.role(pid) == "failover"
                                    for pid in processes.children_of(pair.one.pid)) == 2)
    with adverts(cluster) as heard:
        seen = cluster.load(3, [(1.0, lambda: os.kill(victim, signal.SIGKILL))])
    assert seen.lost == [] and failover_pid(pair.one) not in (0, victim)
    gaps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(heard)]
    assert {sender for _, sender, _ in heard} == {"192.0.2.87"} and max(gaps) < DOWN, gaps
    assert pair.transitions() == before


def test_an_address_that_somebody_removes_comes_back(pair: Pair, tmp_path: Path) -> None:
    cluster, host = pair.cluster, pair.cluster.network["ns7c0"]
    lost = pair.counts(pair.one)["addresses lost"]
    host.ip("address", "add", "198.51.100.1/24", "dev", DEVICE)
    host.ip("address", "del", "198.51.100.1/24", "dev", DEVICE)
    host.ip("address", "del", f"{VIP}/32", "dev", DEVICE)
    wait_for("it is there again", lambda: cluster.holders() == ["ns7c0"], 3)
    wait_for("counted", lambda: pair.counts(pair.one)["addresses lost"] == lost + 1)
    assert "removed by somebody else" in pair.one.output()
    # So fast that nobody sees it away.
    both = tmp_path / "both"
    both.write_text(f"address del {VIP}/32 dev {DEVICE}\n"
                    f"address add {VIP}/32 dev {DEVICE} valid_lft 5 preferred_lft 5\n")
    host.ip("-batch", str(both))
    wait_for("counted again", lambda: pair.counts(pair.one)["addresses lost"] == lost + 2)


def test_poisoned_caches_are_healed(pair: Pair) -> None:
    cluster = pair.cluster
    cluster.network["client"].ip("neigh", "replace", VIP, "lladdr", "02:00:00:00:00:66", "nud", "stale", "dev", DEVICE)
    assert pair.one.command("arp").returncode == 0
    wait_for("the true address", lambda: cluster.neighbour("client") == cluster.mac("ns7c0"))


@pytest.mark.long
def test_the_next_refresh_heals_client_and_switch(pair: Pair) -> None:
    cluster, before = pair.cluster, pair.one.settings.more
    pair.one.reload(more=before.replace("[failover]\n", '[failover]\narp_refresh = "1s"\n'))
    mac, wrong = cluster.mac("ns7c0"), cluster.mac("ns7c2")
    cluster.network["client"].ip("neigh", "replace", VIP, "lladdr", wrong, "nud", "stale", "dev", DEVICE)
    cluster.network.switch.run("bridge", "fdb", "replace", mac, "dev", "ns7c2", "master", "dynamic")
    wait_for("the client", lambda: cluster.neighbour("client") == mac, 3)
    wait_for("the switch", lambda: f"{mac} dev ns7c0 " in cluster.network.switch.run("bridge", "fdb", "show"), 3)
    assert cluster.answers()
    pair.one.reload(more=before)


def sent_by(cluster: Cluster, host: str, message: bytes, ttl: int = 255) -> None:
    with cluster.network[host].socket(socket.AF_INET, socket.SOCK_RAW, PROTOCOL) as one:
        one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
        one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(cluster.network[host].address4))
        one.sendto(message, (str(frames.GROUP4), 0))


def test_hostile_adverts_change_nothing(pair: Pair) -> None:
    """Each is the best director's but for one thing. They are dropped and counted by reason."""
    cluster, before = pair.cluster, pair.counts(pair.other)
    (source,) = parse([cluster.network["client"].address4])

    def made(vrid: int = VRID, interval: float = INTERVAL, addresses: tuple[str, ...] = (VIP,)) -> bytes:
        return frames.advert(source, frames.GROUP4, vrid, 254, interval, parse(addresses))

    good = made()
    wrong = {
        "ttl": [(good, 64)], "vrid": [(made(vrid=8), 255)],
        "interval": [(made(interval=40), 255), (made(interval=0), 255)],
        "addresses": [(made(addresses=("192.0.2.91",)), 255), (made(addresses=(VIP, "192.0.2.91")), 255)],
        "checksum": [(good[:6] + b"\x12\x34" + good[8:], 255)], "version": [(b"\x21" + good[1:], 255)],
        "type": [(b"\x32" + good[1:], 255)],
        "short": [(good[:7], 255), (good + b"\0", 255), (good[:3] + b"\xff" + good[4:], 255)],
    }
    for attempts in wrong.values():
        for message, ttl in attempts:
            sent_by(cluster, "client", message, ttl)
    for number in range(200):
        sent_by(cluster, "client", os.urandom(number))
    for reason, attempts in wrong.items():
        wait_for(reason, lambda reason=reason, attempts=attempts: pair.counts(pair.other)[      # type: ignore[misc]
            f"dropped {reason}"] >= before[f"dropped {reason}"] + len(attempts))
    assert cluster.holders() == ["ns7c0"]
    assert pair.counts(pair.other)["transitions"] == before["transitions"]


@pytest.mark.long
def test_a_stranger_that_has_the_address_is_noticed(pair: Pair) -> None:
    """The probe before a takeover hears somebody who is no director: nothing is taken, and it is told."""
    cluster, host = pair.cluster, pair.cluster.network["ns7c2"]
    host.ip("address", "add", f"{VIP}/32", "dev", DEVICE)
    try:
        refused = pair.other.command("failover", "takeover")
        assert refused.returncode == 2 and f"address {VIP} is taken" in refused.stderr, refused
        assert cluster.holders() == ["ns7c0"] and cluster.state(pair.other)["wish"] == "auto"
        assert f"held by {cluster.mac('ns7c2')}" in pair.other.output()
    finally:
        host.ip("address", "del", f"{VIP}/32", "dev", DEVICE)
    assert pair.other.command("failover", "takeover").returncode == 0


@pytest.mark.long
def test_another_program_at_the_address_lowers_the_priority(pair: Pair) -> None:
    """Who takes VIP:53 on the active director makes the other one active; nobody is told twice."""
    cluster = pair.cluster
    with cluster.network["ns7c0"].socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        thief.bind((VIP, 53))
        cluster.wait_holder("ns7c1", 15)
        assert "held by another program" in pair.one.command("failover", "status").stdout
    cluster.wait_holder("ns7c0", 15)


@pytest.mark.long
def test_stop_and_start_lose_nothing(pair: Pair) -> None:
    """`ns7 stop` on the active director: make before break; and it takes the address back when it returns."""
    cluster = pair.cluster
    started: list[Balancer] = []

    def stop() -> None:
        assert pair.one.command("stop").returncode == 0

    seen = cluster.load(3, [(0.5, stop)])
    assert seen.lost == [] and cluster.holders() == ["ns7c1"]
    pair.one.wait_ended()
    seen = cluster.load(6, [(0.0, lambda: started.append(cluster.director("ns7c0")))])
    pair.one = started[0]
    assert seen.lost == []
    cluster.wait_holder("ns7c0")


def test_what_operators_change_follows_to_the_other_director(pair: Pair) -> None:
    def states(balancer: Balancer) -> list[str]:
        return [server["state"] for server in balancer.service()["servers"]]

    done = pair.one.command("server", "drain", "s2")
    assert done.returncode == 0, done.stderr
    wait_for("drained there", lambda: states(pair.other)[1] == "drained")
    assert "by root on ns7c0" in pair.other.command("status").stdout
    assert pair.other.command("failover", "takeover").returncode == 0
    before = [server["queries"] for server in pair.other.service()["servers"]]
    wait_for("answers", pair.cluster.answers)
    after = [server["queries"] for server in pair.other.service()["servers"]]
    assert after[0] > before[0] and after[1] == before[1], "and it counts there"
    assert re.search(r"audit failover.takeover: standby, auto → active, taken: by root", pair.other.output())
    shown = pair.one.command("status").stdout
    assert "failover: standby since" in shown and f"{VIP}, {VIP6} held by 192.0.2.88" in shown
    done = pair.other.command("server", "set", "s2", "--state", "auto")
    assert done.returncode == 0, done.stderr
    wait_for("back here", lambda: states(pair.one) == ["up", "up"])


def test_reload(pair: Pair) -> None:
    """Another priority, interval and address list, while it runs."""
    cluster = pair.cluster
    before = pair.one.settings
    pair.one.reload(priorities=(("ns7c0", 50), ("ns7c1", 100)))
    cluster.wait_holder("ns7c1")
    pair.one.reload(priorities=tuple(cluster.directors.items()))
    cluster.wait_holder("ns7c0")
    assert pair.one.settings == before
    more = before.more.replace('"300ms"', '"200ms"')        # type: ignore[attr-defined]
    for balancer in (pair.one, pair.other):
        balancer.reload(more=more)
    wait_for("the new interval", lambda: all(cluster.state(each)["interval"] == 0.2 for each in (pair.one, pair.other)))
    for balancer in (pair.one, pair.other):
        balancer.reload(more=before.more)
    assert cluster.holders() == ["ns7c0"] and cluster.answers()


def test_an_address_that_comes_by_reload_was_not_lost(tmp_path: Path) -> None:
    second = "192.0.2.91"
    with Cluster(tmp_path) as cluster:
        balancer = cluster.director("ns7c0")
        cluster.wait_holder("ns7c0")
        balancer.reload(more=cluster.section.replace(f'"{VIP}"', f'"{VIP}", "{second}"'))
        wait_for("it is there", lambda: f" {second}/" in cluster.network["ns7c0"].run("ip", "address"))
        ticks = cluster.state(balancer)["counts"]["sent announcements"]
        assert balancer.command("arp").returncode == 0
        wait_for("told", lambda: cluster.state(balancer)["counts"]["sent announcements"] > ticks)
        assert "addresses lost" not in cluster.state(balancer)["counts"]
        assert "removed by somebody else" not in balancer.output()
        balancer.stop()


@pytest.mark.long
def test_cleanup_after_ns7(tmp_path: Path) -> None:
    """`ns7 failover cleanup`, as ExecStopPost runs it; and ns7 waits for its own addresses, not for floating ones."""
    with Cluster(tmp_path) as cluster:
        host = cluster.network["ns7c0"]
        host.ip("address", "add", f"{VIP}/32", "dev", DEVICE)
        config = tmp_path / "ns7.toml"
        config.write_text(
            f'[[service]]\nname = "dns"\nlisten = ["{VIP}:53", "192.0.2.99:53"]\n[[service.server]]\nname = "s"\n'
            f'address = "192.0.2.88:53"\n[process]\nworkers = 1\nstate_dir = "{tmp_path}/state"\n'
            f'[admin]\nsocket = "{tmp_path}/ns7.sock"\nlisten = []\n{cluster.section}')
        assert f"removed {VIP}" in host.run(*COMMAND, "failover", "cleanup", "-c", str(config))
        assert cluster.holders() == []
        assert "nothing" in host.run(*COMMAND, "failover", "cleanup", "-c", str(config))
        log = tmp_path / "log"
        with log.open("wb") as out:
            process = host.popen(*COMMAND, "run", "-c", str(config), stdout=out, stderr=out)
        wait_for("it waits", lambda: "waiting: 192.0.2.99:53" in log.read_text())
        host.ip("address", "add", "192.0.2.99/24", "dev", DEVICE)
        wait_for("it serves", lambda: "ns7 ready" in log.read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


@pytest.mark.long
@pytest.mark.parametrize("flaps", [10])
def test_split_brain_heals(pair: Pair, flaps: int) -> None:
    cluster = pair.cluster
    for _ in range(flaps):
        cluster.network.cut("ns7c1")
        wait_for("both hold it", lambda: cluster.holders() == ["ns7c0", "ns7c1"])
        cluster.network["client"].ip("neigh", "replace", VIP, "lladdr", cluster.mac("ns7c1"), "nud", "stale",
                                     "dev", DEVICE)
        cluster.network.mend("ns7c1")
        began = time.monotonic()
        cluster.wait_holder("ns7c0")
        assert time.monotonic() - began < 2
        wait_for("the winner is known", lambda: cluster.neighbour("client") == cluster.mac("ns7c0"))


@pytest.mark.long
def test_a_host_that_stood_still(pair: Pair) -> None:
    cluster = pair.cluster
    for balancer in pair.both:
        before, announced = pair.transitions(), pair.counts(pair.one)["sent announcements"]
        signal_all(balancer, signal.SIGSTOP)
        time.sleep(5)
        signal_all(balancer, signal.SIGCONT)
        began = time.monotonic()
        cluster.wait_holder("ns7c0", 5)
        assert time.monotonic() - began < 2
        wait_for("answers", cluster.answers)
        wait_for("the winner is known", lambda: cluster.neighbour("client") == cluster.mac("ns7c0"))
        if balancer is pair.one:
            assert pair.counts(pair.one)["sent announcements"] > announced
        time.sleep(3)
        assert cluster.holders() == ["ns7c0"] and pair.transitions() - before <= 2, "no storm"
        wait_for("noticed", lambda balancer=balancer: pair.counts(balancer)["stalls"])       # type: ignore[misc]


@pytest.mark.long
def test_a_dead_host_answers_no_arp(tmp_path: Path) -> None:
    """The whole unit SIGKILLed: the other one serves, the address ends here by itself, the alert comes.

    When only the supervisor is killed its children say farewell and remove it themselves.
    """
    with Cluster(tmp_path) as cluster:
        pair = Pair(cluster)
        os.kill(pair.one.pid, signal.SIGKILL)
        cluster.wait_holder("ns7c1", 3)
        pair.one.kill()
        pair.one = cluster.director("ns7c0")
        pair.settle()
        signal_all(pair.one, signal.SIGKILL)
        wait_for("the other one has it", lambda: "ns7c1" in cluster.holders(), 5)
        cluster.wait_holder("ns7c1", 7)
        assert cluster.answers()
        pair.one.kill()
        wait_for("no standby is told", lambda: "standby director: present → missing" in pair.other.output(), 15)
        pair.other.stop()


@pytest.mark.long
def test_named_that_listens_everywhere(tmp_path: Path) -> None:
    """BIND's default listen-on on a director: it gets none of the virtual address's queries."""
    with Cluster(tmp_path) as cluster:
        cluster.serve("ns7c1", "listen-on { any; };", "bind")
        cluster.serve("ns7c2")
        one, other = cluster.pair()
        cluster.wait_holder("ns7c0")
        answered = 0
        for _ in range(10):
            seen = cluster.load(3, [(0.5, lambda: other.command("failover", "takeover")),
                                    (1.8, lambda: other.command("failover", "auto"))], qps=500)
            assert seen.lost == []
            answered += seen.answered
            cluster.wait_holder("ns7c0")

        def served() -> int:
            return sum(balancer.service()["queries"] for balancer in (one, other))

        wait_for("all went through the balancers", lambda: served() == answered or None)
        other.stop()
        one.stop()




@pytest.mark.long
def test_upgrade_of_the_active_director_keeps_the_address(pair: Pair) -> None:
    """`ns7 upgrade` hands the address over inside the host: the other director notices nothing, nor does a client."""
    cluster, before = pair.cluster, pair.transitions()
    seen = cluster.load(6, [(0.7, pair.one.upgrade)])
    assert seen.lost == [] and seen.answered == seen.sent
    assert cluster.holders() == ["ns7c0"] and pair.transitions() == before
