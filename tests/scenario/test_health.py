"""The health component over real name servers: what is found, why, what the workers make of it, who is told."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartBalancer, StartServer, StartTcpServer
from tests.helpers import processes, wire
from tests.helpers.client import Client, ask, load
from tests.helpers.daemon import Balancer
from tests.helpers.nameserver import echo, silent
from tests.helpers.tcp import TcpClient, answering, closing
from tests.helpers.waiting import wait_for
from tests.helpers.zoned import ZONE, Zoned

FOUND = 15.0            # seconds; 2.9 are promised: `./dev bench health` measures, this only waits
BASE = f'[alerts]\nflap_changes = 1000\n[health]\nzones = ["{ZONE}"]\nflap_period = "0s"\n'
SECTION = BASE + 'interval = "300ms"\nmaster = "s1"\n'


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Zoned]]:
    """A BIND, the master, and an NSD; each test leaves them as they were."""
    folder = tmp_path_factory.mktemp("farm")
    with Zoned("named", folder / "named") as bind, Zoned("nsd", folder / "nsd", more="tcp-count: 1") as nsd:
        yield [bind, nsd]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, farm: list[Zoned]) -> Iterator[Balancer]:
    """One balancer for all: what a test sets, the next one's `begin` sets back."""
    folder = tmp_path_factory.mktemp("balancer")
    with Balancer(folder, [server.address for server in farm], more=SECTION) as balancer:
        yield balancer


@pytest.fixture
def balancer(shared: Balancer) -> Balancer:
    """Its servers are all known to be up, and nobody was told anything that lasts."""
    if shared.settings.more != SECTION:
        shared.reload(more=SECTION)
    wait_for("all are up", lambda: all(health["verdict"] == "up" for server in shared.service()["servers"]
                                       for health in server["health"].values()), FOUND)
    wait_for("no alert", lambda: running(shared, "alert") and told(shared) == [], FOUND)
    wait_for("nobody behind", lambda: shared.status()["components"]["health"].get("behind") == [], FOUND)
    return shared


def running(balancer: Balancer, name: str) -> bool:
    return bool(balancer.status()["processes"].get(name, {}).get("running"))


def words(balancer: Balancer) -> list[str]:
    """The state of each server."""
    return [server["state"] for server in balancer.service()["servers"]]


def wait_words(balancer: Balancer, *states: str) -> None:
    wait_for(f"states {states}", lambda: words(balancer) == list(states) or None, FOUND, every=0.05)


def found(balancer: Balancer, number: int, proto: str) -> dict[str, Any]:
    health: dict[str, Any] = balancer.server(number)["health"][proto]
    return health


def told(balancer: Balancer) -> list[tuple[str, str, str]]:
    """(kind, subject, state) of every open alert."""
    answer = balancer.request("alert.list")
    return [(alert["kind"], alert["subject"], alert["state"]) for alert in answer.get("result", {}).get("open", ())]


def asked(balancer: Balancer, number: int, proto: str = "udp") -> int:
    server = balancer.server(number)
    return int((server if proto == "udp" else server["tcp"])["queries"])


def ask_all(balancer: Balancer, count: int = 20) -> None:
    with Client(balancer.address) as client:
        for ident in range(count):
            answer = client.ask(wire.query(f"www.{ZONE}", ident=ident + 1))
            assert wire.rcode(answer) == 0


def wait_asked(balancer: Balancer, before: int) -> None:
    """Until the second server has got a query more than `before`; a share grows from little after a return."""
    def asked_again() -> bool:
        ask_all(balancer)
        return asked(balancer, 1) > before

    wait_for("its share", asked_again)


def test_all_well_is_shown(balancer: Balancer, farm: list[Zoned]) -> None:
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


def test_killed_and_back(balancer: Balancer, farm: list[Zoned]) -> None:
    farm[1].stop()
    wait_words(balancer, "up", "down")
    reason = found(balancer, 1, "udp")["reason"]
    assert "refused" in reason
    wait_for("the alert", lambda: ("server", "dns/s2", "down") in told(balancer))
    ask_all(balancer)                   # a worker may have to look at the verdicts yet
    before = asked(balancer, 1)
    ask_all(balancer)
    assert asked(balancer, 1) == before, "a server that is down is not asked"
    for fields in ({"state": "drained"}, {"weight": 0}):
        answer = balancer.request("server.set", server="s1", **fields)
        assert not answer["ok"] and "s1 is the last server of dns that is up" in answer["error"], answer
    for state in ("drained", "up"):
        assert balancer.request("server.set", server="s2", state=state)["ok"], "it takes nothing anyway"
    wait_for("the orders are told", lambda: "order dns/s2 is forced up" in balancer.output())
    assert ("server", "dns/s2", "down") in told(balancer), "an order makes nobody well"
    assert balancer.request("server.set", server="s2", reset=True)["ok"]
    farm[1].start()
    wait_words(balancer, "up", "up")
    wait_for("no alert", lambda: told(balancer) == [])
    wait_asked(balancer, before)


def test_frozen_is_silent(balancer: Balancer, farm: list[Zoned]) -> None:
    farm[1].signal(signal.SIGSTOP)
    try:
        wait_words(balancer, "up", "down")
        assert "no answer within 0.5 s" in found(balancer, 1, "udp")["reason"]
        assert "no answer within 0.5 s" in found(balancer, 1, "tcp")["reason"], "the kernel still accepts"
    finally:
        farm[1].signal(signal.SIGCONT)
    wait_words(balancer, "up", "up")


def test_zone_removed_is_refused(balancer: Balancer, farm: list[Zoned]) -> None:
    """A server that has lost its zone answers fastest of all."""
    farm[0].serve({"other.example": 1})
    try:
        wait_words(balancer, "down", "up")
        assert f"{ZONE} SOA: REFUSED" in found(balancer, 0, "udp")["reason"]
    finally:
        farm[0].serve({ZONE: 1})
    wait_words(balancer, "up", "up")


def test_tcp_alone_is_dead(balancer: Balancer, farm: list[Zoned]) -> None:
    """Its only connection is taken by one idle client after the other: TCP goes elsewhere, UDP does not.

    That clients go on being answered over UDP says nothing of TCP.
    """
    def degraded() -> bool:
        ask_all(balancer)
        return words(balancer) == ["up", "degraded"]

    with contextlib.ExitStack() as idle:
        for _ in range(100):
            idle.enter_context(socket.create_connection((farm[1].host, farm[1].port)))
        wait_for("TCP is dead", degraded, FOUND, every=0.05)
        assert [found(balancer, 1, proto)["verdict"] for proto in ("udp", "tcp")] == ["up", "down"]
        assert "no answer within" in found(balancer, 1, "tcp")["reason"]
        wait_for("the alert", lambda: ("server", "dns/s2", "degraded") in told(balancer))

        def apart() -> bool:
            """NSD ends idle clients, so what was seen counts only if TCP was dead before and after."""
            before = [asked(balancer, 1, proto) for proto in ("udp", "tcp")]
            dead = words(balancer) == ["up", "degraded"]
            ask_all(balancer)
            for number in range(6):
                with TcpClient(balancer.address) as client:
                    client.ask(wire.query(f"www.{ZONE}", ident=number))
            after = [asked(balancer, 1, proto) for proto in ("udp", "tcp")]
            return dead and after[0] >= before[0] + 5 and after[1] == before[1]

        wait_for("UDP takes its share, TCP goes elsewhere", apart, FOUND)
    wait_words(balancer, "up", "up")


def serve_as_before(balancer: Balancer, farm: list[Zoned]) -> None:
    """Serial 1 everywhere, and health knows it."""
    for server in farm:
        server.serve({ZONE: 1})
    wait_for("served as before", lambda: [server.serial() for server in farm] == [1, 1])

    def known() -> bool:
        seen = balancer.status()["components"]["health"]
        return not seen["behind"] and {row["serial"] for row in seen["serials"]} == {1}

    wait_for("health knows it", known, FOUND)


def test_behind_is_reported_and_alerted_later(balancer: Balancer, farm: list[Zoned]) -> None:
    balancer.reload(more=SECTION + 'stale_after = "1s"\n')
    farm[0].serve({ZONE: 2})
    try:
        wait_for("behind", lambda: [(row["server"], row["zone"]) for row in
                                    balancer.status()["components"]["health"]["behind"]] == [("dns/s2", ZONE)], FOUND)
        wait_for("the alert", lambda: told(balancer) == [
            ("zone", f"dns/s2 {ZONE}", "stale")], FOUND)
        assert words(balancer) == ["up", "up"], "stale is no reason for removal"
        balancer.reload(more=SECTION + 'stale_after = "0s"\nstale_is_down = "on"\n')
        wait_words(balancer, "up", "down")
        assert "behind the master" in found(balancer, 1, "udp")["reason"]
        farm[1].serve({ZONE: 2})
        wait_words(balancer, "up", "up")
    finally:
        serve_as_before(balancer, farm)


def test_a_master_that_cannot_be_asked(balancer: Balancer, farm: list[Zoned]) -> None:
    """Is told as that; nobody is stale for it."""
    balancer.reload(more=SECTION.replace('"s1"', '"127.0.0.1:9"') + 'stale_after = "0s"\n')
    wait_for("the alert", lambda: told(balancer) == [
        ("master", "127.0.0.1:9", "unreachable")], FOUND)
    assert words(balancer) == ["up", "up"]
    assert balancer.status()["components"]["health"]["behind"] == []


def test_checks(balancer: Balancer, farm: list[Zoned]) -> None:
    more = f'[[health.check]]\nname = "www.{ZONE}"\nanswers = ["192.0.2.80"]\n'
    balancer.reload(more=SECTION + more.replace(".80", ".81"))
    wait_words(balancer, "down", "down")
    assert f"www.{ZONE} A: no 192.0.2.81 in the answer" in found(balancer, 1, "tcp")["reason"]
    assert {found(balancer, number, "udp")["verdict"] for number in (0, 1)} == {"spared"}
    ask_all(balancer)                   # what speaks against all of them alike keeps nobody out
    balancer.reload(more=SECTION + more.replace('["192.0.2.80"]', "[]").replace("www.", "nowhere.")
                    + 'rcode = "NXDOMAIN"\n')
    wait_words(balancer, "up", "up")


def test_all_dead_all_are_tried(balancer: Balancer, farm: list[Zoned]) -> None:
    for server in farm:
        server.stop()
    wait_words(balancer, "down", "down")
    farm[1].start()
    ask(balancer.address)               # answered before `rise` is over
    wait_words(balancer, "down", "up")
    farm[0].start()


def test_the_operators_word_stands_above(balancer: Balancer, farm: list[Zoned]) -> None:
    """A server that is forced is probed and shown; when the force ends, what was found counts."""
    farm[1].signal(signal.SIGSTOP)
    try:
        assert balancer.command("server", "set", "s2", "--state", "up").returncode == 0
        wait_for("found all the same", lambda: found(balancer, 1, "udp")["verdict"] == "down", FOUND)
        assert words(balancer) == ["up", "up"]
        assert balancer.command("server", "set", "s2", "--state", "auto").returncode == 0
        wait_words(balancer, "up", "down")
        wait_for("the alert", lambda: ("server", "dns/s2", "down") in told(balancer))
    finally:
        farm[1].signal(signal.SIGCONT)
    wait_words(balancer, "up", "up")
    assert balancer.command("server", "set", "s2", "--state", "down").returncode == 0
    wait_words(balancer, "up", "down")
    assert found(balancer, 1, "udp")["verdict"] == "up"
    assert balancer.command("server", "set", "s2", "--state", "auto").returncode == 0


def test_an_order_tells_nothing_that_health_holds_back(
    start: StartBalancer, nameserver: StartServer, tcpserver: StartTcpServer
) -> None:
    """A server is down over one protocol and about to fall over the other; by then it is well again.

    Nobody was told, and an order in between must not tell of it either: nothing would end that alert.
    """
    udp, second = nameserver(), nameserver()
    tcp, _ = tcpserver(port=udp.port), tcpserver(port=second.port)
    balancer = start([udp.address, second.address], more='[health]\ninterval = "300ms"\nfall = 15\n')
    wait_words(balancer, "up", "up")

    def silences() -> int:
        """Each takes half a second, fifteen of them too long for this test."""
        return int(balancer.status()["components"]["health"]["probes"].get("udp silent", 0))

    udp.handler = silent
    wait_for("it is about to fall", lambda: silences() > 0, FOUND)
    tcp.handler = closing
    wait_words(balancer, "degraded", "up")
    for state in ("down", "auto"):
        assert balancer.request("server.set", server="s1", state=state)["ok"]
    tcp.handler = answering
    wait_words(balancer, "up", "up")
    udp.handler = echo
    wait_for("the orders are told", lambda: running(balancer, "alert") and "order dns/s1 is auto" in balancer.output())
    assert told(balancer) == []


def test_its_crash_leaves_the_verdicts(balancer: Balancer, farm: list[Zoned]) -> None:
    """A successor goes on from them, and nobody is told anything twice."""
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
    wait_for("no alert", lambda: told(balancer) == [])


def test_what_ends_while_it_is_away_ends(balancer: Balancer, farm: list[Zoned]) -> None:
    """A zone that was told to be stale is as new as the master's when a successor looks first."""
    balancer.reload(more=SECTION + 'stale_after = "0s"\n')
    farm[0].serve({ZONE: 2})
    try:
        wait_for("the alert", lambda: told(balancer) == [("zone", f"dns/s2 {ZONE}", "stale")], FOUND)
        pid = balancer.status()["processes"]["health"]["pid"]
        os.kill(pid, signal.SIGSTOP)
        farm[1].serve({ZONE: 2})
        wait_for("served", lambda: farm[1].serial() == 2)
        os.kill(pid, signal.SIGKILL)
        wait_for("no alert", lambda: told(balancer) == [], FOUND)
    finally:
        serve_as_before(balancer, farm)


@pytest.mark.long
def test_old_verdicts_count_no_more(balancer: Balancer, farm: list[Zoned]) -> None:
    """Ten seconds after the last sign of life of its process every server counts as up."""
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
        wait_asked(balancer, asked(balancer, 1))
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for("known again", lambda: found(balancer, 1, "udp")["verdict"] == "up", FOUND)


def test_open_recursion_is_told(start: StartBalancer, tmp_path: Path) -> None:
    forward = "recursion yes; forward only; forwarders { 127.0.0.1 port 9; };"
    with Zoned("named", tmp_path / "open", more=forward) as server:
        balancer = start([server.address], more=SECTION)
        wait_for("the alert", lambda: told(balancer) == [("recursion", "dns/s1", "open")],
                 FOUND)
        wait_words(balancer, "up")


def test_suspicion_and_probe_are_one_verdict(balancer: Balancer, farm: list[Zoned]) -> None:
    """Under load a server that dies is down at once: clients' queries and one probe say the same."""
    balancer.reload(more=BASE + 'interval = "10s"\n')
    time.sleep(0.5)                     # whoever is asked once more at the old pace has been
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
