"""The small pure parts: announcements, fitness, the section, what is shown."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from balancer.config import ConfigError
from failover import fitness
from failover.address import Interface
from failover.announcing import BURST, SECOND, Announcements
from failover.commands import table
from failover.fitness import Fitness
from failover.frames import GROUP4, GROUP6, parse
from failover.holding import virtual
from failover.metrics import metrics, status
from failover.wire import Plan, Stored
from tests.unit.balancer.config.files import PLAIN, load_text

SECTION = '\n[failover]\ninterface = "eth0"\nvirtual_router_id = 7\naddresses = ["192.0.2.90"]\n'


def test_announcements() -> None:
    one = Announcements(60.0)
    assert one.wake is None and one.due(5.0) == 0
    assert one.begin(100.0) == BURST
    told = []
    while one.wake is not None and one.wake < 300:
        told.append((one.wake, one.due(one.wake)))
    assert told == [(101.0, BURST), (100.0 + SECOND, BURST), (165.0, 1), (225.0, 1), (285.0, 1)]
    one.end()
    assert one.wake is None


def test_fitness() -> None:
    up = [{"servers": [{"state": "down"}, {"state": "up"}]}]
    assert fitness.reason([99_000_000_000], up, [], 100_000_000_000) == ""
    assert fitness.reason([90_000_000_000], up, [], 100_000_000_000) == "no worker is alive"
    assert fitness.reason([], up, [], 100_000_000_000) == "no worker is alive"
    down = [{"servers": [{"state": "down"}, {"state": "drained"}]}]
    assert fitness.reason([99_000_000_000], down, [], 100_000_000_000) == "no server can be reached"
    thief = ["192.0.2.90 port 53/udp"]
    assert "held by another program" in fitness.reason([99_000_000_000], up, thief, 100_000_000_000)
    one = Fitness()
    assert [one.look(why) for why in ("", "x", "", "", "")] == [True, False, False, True, True]


def section(text: str = "") -> Any:
    return load_text(PLAIN + SECTION + text).failover      # type: ignore[attr-defined]


def test_section() -> None:
    one = section()
    assert (one.priority, one.interval, one.preempt, one.peers, one.key_file) == (100, 0.3, "on", (), None)
    config = load_text(PLAIN + SECTION)
    assert config.floating == {"192.0.2.90"}


@pytest.mark.parametrize("line", [
    "priority = 2", "priority = 254", 'interval = "305ms"', 'interval = "10ms"', 'preempt = "maybe"', 'nothing = 1',
    'peers = ["192.0.2.90"]', 'checksum = "none"', 'key_file = "key"', "status_port = 0"])
def test_mistakes_in_the_section(line: str) -> None:
    with pytest.raises(ConfigError) as told:
        section(line)
    assert "failover" in str(told.value)


def test_a_source_is_never_a_floating_address() -> None:
    address = 'address = "192.0.2.1:53"'
    with pytest.raises(ConfigError, match="floating address"):
        load_text(PLAIN.replace(address, f'{address}\nsource = "192.0.2.90"') + SECTION)


def test_the_same_file_has_the_same_fingerprint() -> None:
    plain, commented = load_text(PLAIN + SECTION), load_text("# hello\n" + PLAIN + SECTION)
    assert plain.fingerprint == commented.fingerprint != load_text(PLAIN).fingerprint


def plan(peers: tuple[str, ...] = (), addresses: tuple[str, ...] = ("192.0.2.90", "2001:db8::90")) -> Plan:
    config = SimpleNamespace(interface="eth0", virtual_router_id=7, interval=0.3, checksum="pseudo", peers=peers,
                             addresses=addresses)
    own = tuple(parse(["192.0.2.87", "2001:db8::87", "fe80::87"]))
    return Plan.of(config, virtual(config), Interface(2, "02:00:00:00:00:07", own, frozenset()))


def test_plan() -> None:
    one = plan()
    assert [str(address) for address in one.family(6)] == ["fe80::200:5eff:fe00:207", "2001:db8::90"]
    assert (str(one.source(4)), str(one.source(6))) == ("192.0.2.87", "fe80::87")
    assert one.destinations(4) == (GROUP4,) and one.destinations(6) == (GROUP6,)
    two = plan(("192.0.2.87", "192.0.2.88"))
    assert [str(to) for to in two.destinations(4)] == ["192.0.2.88"] and two.destinations(6) == (GROUP6,)
    assert virtual(SimpleNamespace(addresses=["192.0.2.90"], virtual_router_id=7)) == tuple(parse(["192.0.2.90"]))


def test_frames_survive_their_maker() -> None:
    stored = Stored(plan(), (0, 1, 100))
    given = json.loads(json.dumps(stored.export()))
    again = Stored(plan(), (0, 1, 100), given)
    assert (again.adverts, again.announcements) == (stored.adverts, stored.announcements)
    assert Stored(plan(), (0, 1, 101), given).adverts.keys() == {0, 1, 101}, "other settings, other frames"


SNAPSHOT = {"active": True, "state": "active", "since": 0.0, "priority": 200, "wish": "auto", "fit": True, "why": "",
            "node": "ns7c0", "addresses": ["192.0.2.90"], "interface": "eth0", "virtual_router_id": 7, "interval": 0.3,
            "peer": "192.0.2.88", "peer_priority": 100, "peer_age": 12.0, "heard": 1,
            "troubles": [["port", "x", "taken"]],
            "directors": {"ns7c1": {"fit": False, "why": "no\nworker", "state": "standby", "age": 0.5}},
            "counts": {"transitions": 3, "dropped ttl": 2}, "at": 1.0, "frames": {}}


def test_shown() -> None:
    lines = table(SNAPSHOT)
    assert "ns7c0 is active since" in lines[0] and any("cannot serve: no worker" in line for line in lines)
    assert not {"at", "frames"} & set(status(SNAPSHOT))

    class Fixed(Collector):
        def collect(self) -> Any:
            return metrics(SNAPSHOT)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Fixed())
    text = generate_latest(registry).decode()
    assert "ns7_failover_active 1.0" in text and "ns7_failover_transitions_total 3.0" in text
    assert 'ns7_failover_adverts_dropped_total{reason="ttl"} 2.0' in text
    assert list(metrics({})) == []
