"""The health component over real name servers: what is found, why, what the workers make of it, who is told."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartBalancer
from tests.helpers import processes, wire
from tests.helpers.client import Client, ask, load
from tests.helpers.daemon import Balancer
from tests.helpers.waiting import wait_for
from tests.helpers.zoned import ZONE, Zoned

FOUND = 15.0            # seconds; 2.9 are promised: `./dev bench health` measures, this only waits
SECTION = f'[health]\nzones = ["{ZONE}"]\nmaster = "s1"\nflap_period = "0s"\n'
MakeServer = Callable[..., Zoned]


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Zoned]]:
    """A BIND, the master, and an NSD; each test leaves them as they were."""
    folder = tmp_path_factory.mktemp("farm")
    with Zoned("named", folder / "named") as bind, Zoned("nsd", folder / "nsd") as nsd:
        yield [bind, nsd]


def words(balancer: Balancer) -> list[str]:
    """The state of each server."""
    return [server["state"] for server in balancer.service()["servers"]]


def wait_words(balancer: Balancer, *states: str) -> None:
    wait_for(f"states {states}", lambda: words(balancer) == list(states) or None, FOUND, every=0.05)


def found(balancer: Balancer, number: int, proto: str) -> dict[str, Any]:
    health: dict[str, Any] = balancer.server(number)["health"][proto]
    return health


def begin(start: StartBalancer, farm: list[Zoned], section: str = SECTION, **settings: Any) -> Balancer:
    """A balancer whose servers are all known to be up."""
    balancer = start([server.address for server in farm], more=section, **settings)
    wait_for("all are up", lambda: all(health["verdict"] == "up" for server in balancer.service()["servers"]
                                       for health in server["health"].values()), FOUND)
    return balancer


def events(balancer: Balancer) -> list[tuple[str, str, str, str]]:
    """(subject, before, after, reason) of what health told, by what alert was told of it."""
    answer = balancer.request("alert.list")
    return [(alert["kind"], alert["subject"], alert["state"], alert["reason"]) for alert in answer["result"]["open"]]


def asked(balancer: Balancer, number: int, proto: str = "udp") -> int:
    server = balancer.server(number)
    return int((server if proto == "udp" else server["tcp"])["queries"])


def ask_all(balancer: Balancer, count: int = 20) -> None:
    with Client(balancer.address) as client:
        for ident in range(count):
            answer = client.ask(wire.query(f"www.{ZONE}", ident=ident + 1))
            assert wire.rcode(answer) == 0


def test_all_well_is_shown(start: StartBalancer, farm: list[Zoned]) -> None:
    balancer = begin(start, farm)
    seen = found(balancer, 0, "udp")
    assert abs(time.time() - seen["since"]) < 60 and abs(time.time() - seen["probed"]) < 10
    assert 0 < seen["latency"] < 0.5 and seen["reason"] == ""
    wait_for("serials", lambda: len(balancer.status()["components"].get("health", {}).get("serials", ())) == 2)
    told = balancer.status()["components"]["health"]
    assert {row["serial"] for row in told["serials"]} == {1} and told["behind"] == []
    assert told["master"] == {"name": "s1", "verdict": "up"}
    shown = balancer.command("status").stdout
    assert len(re.findall(r"dns/s[12] +(?:udp|tcp) +up ", shown)) == 4
    pid = balancer.status()["processes"]["health"]["pid"]
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "datapath/poller" not in maps and "aiohttp" not in maps


def test_killed_and_back(start: StartBalancer, farm: list[Zoned]) -> None:
    balancer = begin(start, farm)
    farm[1].stop()
    wait_words(balancer, "up", "down")
    reason = found(balancer, 1, "udp")["reason"]
    assert "refused" in reason
    wait_for("the alert", lambda: [each for each in events(balancer) if each[:3] == ("server", "dns/s2", "down")])
    before = asked(balancer, 1)
    ask_all(balancer)
    assert asked(balancer, 1) == before, "a server that is down is not asked"
    farm[1].start()
    wait_words(balancer, "up", "up")
    wait_for("no alert", lambda: events(balancer) == [])
    ask_all(balancer)
    assert asked(balancer, 1) > before


def test_frozen_is_silent(start: StartBalancer, farm: list[Zoned]) -> None:
    balancer = begin(start, farm)
    farm[1].signal(signal.SIGSTOP)
    try:
        wait_words(balancer, "up", "down")
        assert "no answer within 0.5 s" in found(balancer, 1, "udp")["reason"]
        assert "no answer within 0.5 s" in found(balancer, 1, "tcp")["reason"], "the kernel still accepts"
    finally:
        farm[1].signal(signal.SIGCONT)
    wait_words(balancer, "up", "up")


def test_zone_removed_is_refused(start: StartBalancer, farm: list[Zoned]) -> None:
    """A server that has lost its zone answers fastest of all."""
    balancer = begin(start, farm)
    farm[0].serve({"other.example": 1})
    try:
        wait_words(balancer, "down", "up")
        assert f"{ZONE} SOA: REFUSED" in found(balancer, 0, "udp")["reason"]
    finally:
        farm[0].serve({ZONE: 1})
    wait_words(balancer, "up", "up")


def test_behind_is_reported_and_alerted_later(start: StartBalancer, farm: list[Zoned]) -> None:
    balancer = begin(start, farm, SECTION + 'stale_after = "2s"\n')
    farm[0].serve({ZONE: 2})
    try:
        wait_for("behind", lambda: [(row["server"], row["zone"]) for row in
                                    balancer.status()["components"]["health"]["behind"]] == [("dns/s2", ZONE)], FOUND)
        wait_for("the alert", lambda: [each[:3] for each in events(balancer)] == [
            ("zone", f"dns/s2 {ZONE}", "stale")], FOUND)
        assert words(balancer) == ["up", "up"], "stale is no reason for removal"
        balancer.reload(more=SECTION + 'stale_after = "0s"\nstale_is_down = "on"\n')
        wait_words(balancer, "up", "down")
        assert "behind the master" in found(balancer, 1, "udp")["reason"]
        farm[1].serve({ZONE: 2})
        wait_words(balancer, "up", "up")
    finally:
        farm[0].serve({ZONE: 1})
        farm[1].serve({ZONE: 1})
        wait_for("served as before", lambda: [server.serial() for server in farm] == [1, 1])


def test_a_master_that_cannot_be_asked(start: StartBalancer, farm: list[Zoned]) -> None:
    """Is told as that; nobody is stale for it."""
    section = SECTION.replace('"s1"', '"127.0.0.1:9"') + 'stale_after = "0s"\n'
    balancer = begin(start, farm, section)
    wait_for("the alert", lambda: [each[:3] for each in events(balancer)] == [
        ("master", "127.0.0.1:9", "unreachable")], FOUND)
    assert words(balancer) == ["up", "up"]
    assert balancer.status()["components"]["health"]["behind"] == []


def test_checks(start: StartBalancer, farm: list[Zoned]) -> None:
    more = f'[[health.check]]\nname = "www.{ZONE}"\nanswers = ["192.0.2.80"]\n'
    balancer = begin(start, farm, SECTION + more)
    balancer.reload(more=SECTION + more.replace(".80", ".81"))
    wait_words(balancer, "down", "down")
    assert f"www.{ZONE} A: no 192.0.2.81 in the answer" in found(balancer, 1, "tcp")["reason"]
    assert {found(balancer, number, "udp")["verdict"] for number in (0, 1)} == {"spared"}
    ask_all(balancer)                   # what speaks against all of them alike keeps nobody out
    balancer.reload(more=SECTION + more.replace('["192.0.2.80"]', "[]").replace("www.", "nowhere.")
                    + 'rcode = "NXDOMAIN"\n')
    wait_words(balancer, "up", "up")


def test_all_dead_all_are_tried(start: StartBalancer, tmp_path: Path) -> None:
    with Zoned("nsd", tmp_path / "a") as one, Zoned("nsd", tmp_path / "b") as two:
        balancer = begin(start, [one, two])
        one.stop()
        two.stop()
        wait_words(balancer, "down", "down")
        two.start()
        ask(balancer.address)           # its answer is there before the second probe of `rise`
        wait_words(balancer, "down", "up")


def test_its_crash_leaves_the_verdicts(start: StartBalancer, farm: list[Zoned]) -> None:
    """A successor goes on from them, and nobody is told anything twice."""
    balancer = begin(start, farm)
    farm[1].stop()
    try:
        wait_words(balancer, "up", "down")
        since = found(balancer, 1, "udp")["since"]
        victim = balancer.status()["processes"]["health"]["pid"]
        os.kill(victim, signal.SIGKILL)
        assert words(balancer) == ["up", "down"]
        wait_for("a successor", lambda: balancer.status()["processes"]["health"]["pid"] not in (0, victim)
                 and found(balancer, 1, "udp")["probed"] > time.time() - 0.5)
        assert words(balancer) == ["up", "down"]
        assert abs(found(balancer, 1, "udp")["since"] - since) < 0.1
    finally:
        farm[1].start()
    wait_words(balancer, "up", "up")
    wait_for("no alert", lambda: [each for each in events(balancer) if each[0] == "server"] == [])


@pytest.mark.long
def test_old_verdicts_count_no_more(start: StartBalancer, farm: list[Zoned]) -> None:
    """Ten seconds after the last sign of life of its process every server counts as up."""
    balancer = begin(start, farm)
    farm[1].stop()
    wait_words(balancer, "up", "down")
    pid = balancer.status()["processes"]["health"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    farm[1].start()
    try:
        wait_for("stopped", lambda: processes.stopped(pid))
        assert words(balancer) == ["up", "down"]
        wait_words(balancer, "up", "up")
        assert found(balancer, 1, "udp")["verdict"] == "unknown"
        before = asked(balancer, 1)
        ask_all(balancer)
        assert asked(balancer, 1) > before
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for("known again", lambda: found(balancer, 1, "udp")["verdict"] == "up", FOUND)


def test_open_recursion_is_told(start: StartBalancer, tmp_path: Path) -> None:
    forward = "recursion yes; forward only; forwarders { 127.0.0.1 port 9; };"
    with Zoned("named", tmp_path / "open", more=forward) as server:
        balancer = begin(start, [server], SECTION)
        wait_for("the alert", lambda: [each[:3] for each in events(balancer)] == [("recursion", "dns/s1", "open")],
                 FOUND)
        assert words(balancer) == ["up"]


def test_suspicion_and_probe_are_one_verdict(start: StartBalancer, farm: list[Zoned]) -> None:
    """Under load a server that dies is down at once: clients' queries and one probe say the same."""
    balancer = begin(start, farm, SECTION.replace('[health]', '[health]\ninterval = "10s"'))
    seen: list[float] = []

    def kill() -> None:
        farm[1].stop()
        at = time.monotonic()
        while found(balancer, 1, "udp")["verdict"] != "down" and time.monotonic() - at < FOUND:
            time.sleep(0.005)
        seen.append(time.monotonic() - at)

    try:
        result = load(balancer.address, 500, 2, [(0.5, kill)])
        assert result.lost == []
        assert seen[0] < 5, "by probes alone it takes more than the interval of 10 s"
        assert "clients' queries" in found(balancer, 1, "udp")["reason"] or "refused" in found(
            balancer, 1, "udp")["reason"]
    finally:
        farm[1].start()
