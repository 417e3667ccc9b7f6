"""`ns7 server`: live changes of the servers under load, over reload and restart, by two operators at once."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import OpenClient, OpenTcpClient, StartBalancer, StartServer, StartTcpServer
from tests.helpers import wire
from tests.helpers.client import ask, load
from tests.helpers.config import Server
from tests.helpers.daemon import COMMAND, ROOT, Balancer
from tests.helpers.nameserver import delayed, silent
from tests.helpers.ports import free_address
from tests.helpers.tcp import TcpClient
from tests.helpers.waiting import wait_for
from tests.scenario.test_admin import fetch
from tests.scenario.test_components import WITNESS, call, running
from tests.scenario.test_tcp_transfers import transferring


def change(balancer: Balancer, verb: str, server: str, **fields: Any) -> dict[str, Any]:
    """A live change that must be made; what the supervisor says of it."""
    answer = balancer.request(f"server.{verb}", server=server, **fields)
    assert answer["ok"], answer
    result: dict[str, Any] = answer["result"]
    return result


def refused(balancer: Balancer, verb: str, server: str, **fields: Any) -> str:
    answer = balancer.request(f"server.{verb}", server=server, **fields)
    assert not answer["ok"], answer
    return str(answer["error"])


def servers(balancer: Balancer) -> dict[str, tuple[str, int]]:
    """State and weight by name."""
    return {server["name"]: (server["state"], server["weight"]) for server in balancer.service()["servers"]}


def ns7(balancer: Balancer, *words: str) -> subprocess.CompletedProcess[str]:
    """`ns7 server …` that must succeed."""
    done = balancer.command("server", *words)
    assert done.returncode == 0, done
    return done


# Under load

def test_nothing_is_lost(start: StartBalancer, nameserver: StartServer) -> None:
    """Added, given more, drained, used again, removed, added again where a removed one was, a reload between."""
    one, two, three = (nameserver(delayed(0.03)) for _ in range(3))
    balancer = start([one.address, two.address], workers=2)
    steps: list[Callable[[], object]] = [
        partial(change, balancer, "add", "s3", address=three.address, weight=2),
        partial(change, balancer, "set", "s1", weight=5),
        partial(change, balancer, "set", "s2", state="drained"),
        partial(balancer.reload),
        partial(change, balancer, "remove", "s1"),
        partial(change, balancer, "set", "s2", state="auto"),
        partial(change, balancer, "add", "s4", address=one.address),
        partial(change, balancer, "set", "s3", state="down"),
        partial(change, balancer, "remove", "s3"),
    ]
    seen = load(balancer.address, 500, 3, [(0.3 + 0.25 * number, step) for number, step in enumerate(steps)])
    assert seen.lost == [] and seen.twice == 0
    assert balancer.dropped() == {}
    assert servers(balancer).keys() - {"s1", "s3"} == {"s2", "s4"}
    assert three.received
    service = balancer.wait_idle()
    assert service["queries"] == seen.sent


def test_nothing_is_lost_over_tcp(start: StartBalancer, tcpserver: StartTcpServer) -> None:
    """Clients that never pause, so a drained server would stay in use if their connections stayed with it."""
    one, two, three = (tcpserver() for _ in range(3))
    balancer = start([one.address, two.address])
    done, answered, failures = threading.Event(), count(), list[BaseException]()

    def work() -> None:
        try:
            with TcpClient(balancer.address) as client:
                client.say(wire.query(ident=0))
                for number in range(1, 100_000):
                    client.say(wire.query(ident=number % 65536))    # one is always pending
                    answer = client.hear()
                    assert wire.rcode(answer) == 0, "SERVFAIL"
                    next(answered)
                    if done.wait(0.002):
                        break
                client.hear()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            wait_for("both are asked", lambda: len(one.asked) > 20 and len(two.asked) > 20)
            change(balancer, "set", "s1", state="drained")
            wait_for("drained", lambda: balancer.server()["inflight"] == 0 and balancer.tcp_server()["idle"] == (
                balancer.tcp_server()["open"]))
            one.asked.clear()
            change(balancer, "add", "s3", address=three.address)
            wait_for("the new one is asked", lambda: three.asked)
            assert not one.asked
            change(balancer, "remove", "s3")
            change(balancer, "set", "s1", state="auto")
            wait_for("its place is free", lambda: "s3" not in servers(balancer))
            three.asked.clear()
            two.asked.clear()
    finally:
        done.set()
        for thread in threads:
            thread.join(20)
    assert not failures, failures
    assert next(answered) > 100
    service = balancer.wait_idle()
    assert service["tcp"]["dropped"]["client_gone"] == 0 and service["tcp"]["timeouts"] == 0


def test_place_of_a_removed_server_waits_for_its_transfers(
    start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient
) -> None:
    """A connection that carried a transfer stays with its client; nobody else's server takes its place meanwhile."""
    old, other, new = tcpserver(transferring(2)), tcpserver(), tcpserver()
    balancer = start([old.address, other.address], admit={"transfer": ["127.0.0.0/8"]})
    client = tcpclient(balancer.address)
    change(balancer, "set", "s2", state="drained")
    client.say(wire.query("zone.example", "AXFR", ident=1))
    client.hear_all(2)
    change(balancer, "set", "s2", state="auto")
    change(balancer, "remove", "s1")
    change(balancer, "add", "s3", address=new.address)
    wait_for("its datagram sockets are closed", lambda: servers(balancer).keys() == {"s1", "s2", "s3"})
    ask_both = [client.ask(wire.query(ident=number)) for number in range(2, 8)]
    assert len(ask_both) == 6 and len(old.asked) == 1, "its client's other queries go to others"
    entry = balancer.server()
    assert (entry["name"], entry["state"], entry["tcp"]["open"]) == ("s1", "removed", 1)
    client.close()
    wait_for("its place is free", lambda: servers(balancer).keys() == {"s2", "s3"})


def test_removed_server_is_waited_for(
    start: StartBalancer, nameserver: StartServer, client: OpenClient
) -> None:
    """--wait tells what is left; what is in flight is answered, by whoever."""
    slow = nameserver(silent)
    balancer = start([slow.address, free_address()], udp_timeout="30s", service={"retry": "off", "suspend": "off"})
    change(balancer, "set", "s2", state="drained")
    one = client(balancer.address)
    one.send(wire.query(ident=7))
    asked = slow.wait(1)
    change(balancer, "set", "s2", state="auto")
    done = balancer.command("server", "remove", "s1", "--wait", "--timeout", "0.5")
    assert done.returncode == 1 and "1 queries in flight" in done.stderr, done
    waiting = subprocess.Popen([*COMMAND, "server", "drain", "s2", "--force", "--wait", "--socket",
                                str(balancer.control)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert waiting.communicate(timeout=20)[0].splitlines()[-1].startswith("dns/s2: empty after")
    slow.answer_all(asked)
    assert wire.ident(one.receive()) == 7
    wait_for("gone", lambda: servers(balancer).keys() == {"s2"})


# What the states mean

def test_ordered_up_and_down(start: StartBalancer, nameserver: StartServer, client: OpenClient) -> None:
    dead, well = nameserver(silent), nameserver()
    balancer = start([dead.address, well.address], scheduler="rr")
    change(balancer, "set", "s1", state="up")
    assert load(balancer.address, 200, 1).lost == []
    assert len(dead.received) > 50, "counts as up, though it never says a word"
    change(balancer, "set", "s1", state="down")
    wait_for("settled", lambda: balancer.wait_idle() and servers(balancer)["s1"] == ("down", 1))
    before = len(dead.received)
    one = client(balancer.address)
    for _ in range(50):
        one.ask(wire.query())
    assert len(dead.received) <= before + 1


def test_last_server_is_not_taken_by_mistake(start: StartBalancer, nameserver: StartServer) -> None:
    balancer = start([nameserver().address, nameserver().address])
    change(balancer, "set", "s1", weight=0)
    for verb, fields in (("set", {"weight": 0}), ("set", {"state": "down"}), ("set", {"state": "drained"}),
                         ("remove", {})):
        assert "last server of dns that takes queries" in refused(balancer, verb, "s2", **fields)
    ask(balancer.address)
    change(balancer, "set", "s2", state="drained", force=True)
    assert servers(balancer) == {"s1": ("drained", 0), "s2": ("drained", 1)}
    change(balancer, "set", "s1", weight=1)
    ask(balancer.address)


# Names

WRONG = [
    ("set", {"server": "s11", "weight": 1}, 'no server "s11" (did you mean s1?)'),
    ("set", {"server": "dsn/s1", "weight": 1}, 'no service "dsn" (did you mean dns?)'),
    ("set", {"server": "dns/zzz", "weight": 1}, 'no server "zzz" in dns (there is s1, s2)'),
    ("set", {"server": "s1", "weight": 70000}, "weight must be a whole number from 0 to 65535"),
    ("set", {"server": "s1", "weight": "5"}, "cannot be"),
    ("set", {"server": "s1", "state": "sideways"}, "state must be one of auto, up, down, drained"),
    ("set", {"server": "s1"}, "nothing to set"),
    ("set", {"server": "s1", "reset": True}, "no live change to lift"),
    ("set", {}, "no server"),
    ("set", {"server": {"a": []}}, "no server"),
    ("add", {"server": "s1", "address": "192.0.2.1:53"}, "is there already"),
    ("add", {"server": "s3"}, "address is missing"),
    ("add", {"server": "s3", "address": "192.0.2.1"}, "address must be"),
    ("add", {"server": "-", "address": "192.0.2.1:53"}, "name must be"),
    ("add", {"server": "s3", "address": "192.0.2.1:53", "source": "::1"}, "source must be an IPv4 address"),
    ("add", {"server": "s3", "address": "192.0.2.1:53", "weight": [1]}, "cannot be"),
    ("remove", {"server": "s1.example"}, "there is s1, s2"),
]


def test_mistakes_are_told_and_change_nothing(start: StartBalancer, nameserver: StartServer) -> None:
    balancer = start([nameserver().address, nameserver().address])
    generation = balancer.status()["generation"]
    for verb, fields, words in WRONG:
        answer = balancer.request(f"server.{verb}", **fields)
        assert not answer["ok"] and words in answer["error"], (verb, fields, answer)
    assert "already the address of" in refused(balancer, "add", "s3", address=balancer.settings.servers[0])
    assert "our own" in refused(balancer, "add", "s3", address=balancer.address)
    status = balancer.status()
    assert status["generation"] == generation and status["live"] == []
    balancer.reload(service={"primary": "s1"})
    assert "is the primary of dns" in refused(balancer, "remove", "s1")
    for fields in ({"weight": 0}, {"state": "drained"}):
        assert "UPDATE and NOTIFY would fail" in refused(balancer, "set", "s1", **fields)
    change(balancer, "set", "s1", weight=0, force=True)
    change(balancer, "set", "s1", state="down")
    change(balancer, "set", "s1", reset=True)
    done = balancer.command("server", "drain", "s11")
    assert done.returncode == 2 and "did you mean s1?" in done.stderr and not done.stdout


# Kept

def test_holds_over_reload_and_restart(start: StartBalancer, nameserver: StartServer, tmp_path: Path) -> None:
    one, two, three, four = (nameserver() for _ in range(4))
    addresses = [one.address, two.address, four.address]
    with Balancer(tmp_path, addresses, workers=2) as balancer:
        change(balancer, "set", "s1", weight=7)
        change(balancer, "set", "s2", state="drained")
        change(balancer, "remove", "s3")
        change(balancer, "add", "s9", address=three.address, weight=2)
        expected = {"s1": ("up", 7), "s2": ("drained", 1), "s9": ("up", 2)}
        wait_for("as ordered", lambda: servers(balancer) == expected)
        balancer.rewrite(servers=[Server(one.address, 3), *addresses[1:]])
        done = balancer.command("reload")
        assert "dns/s1: weight 7 holds, a live change of" in done.stdout, done
        assert servers(balancer) == expected
        listed = ns7(balancer, "list").stdout
        for words in ("s1  ", "weight 7 by", "state drained by", "s3: removed by", "added by"):
            assert words in listed
    with Balancer(tmp_path, addresses, balancer.settings.listen, workers=1) as balancer:
        assert servers(balancer) == expected, "from the first moment on"
        for _ in range(20):
            ask(balancer.address)
        assert not two.received and not four.received and three.received
        for name in ("s1", "s2", "s3"):
            change(balancer, "set", name, reset=True)
        change(balancer, "remove", "s9")
        wait_for("as the file says",
                 lambda: servers(balancer) == {"s1": ("up", 1), "s2": ("up", 1), "s3": ("up", 1)})
        assert balancer.status()["live"] == []


def test_back_to_what_the_file_says_is_no_change(start: StartBalancer, nameserver: StartServer) -> None:
    balancer = start([nameserver().address, nameserver().address])
    change(balancer, "set", "s1", state="drained", weight=4)
    assert len(balancer.status()["live"]) == 2
    change(balancer, "set", "s1", state="auto", weight=1)
    assert balancer.status()["live"] == []


def test_comes_and_goes_again_and_again(start: StartBalancer, nameserver: StartServer) -> None:
    """One that the file has, and one that it has not."""
    balancer = start([nameserver().address, nameserver().address])
    addresses = {"s1": balancer.settings.servers[0], "s9": nameserver().address}
    change(balancer, "add", "s9", address=addresses["s9"])
    for _ in range(3):
        for name, address in addresses.items():
            change(balancer, "set", name, weight=5)
            change(balancer, "remove", name)
            assert name not in {one for one, (state, _) in servers(balancer).items() if state != "removed"}
            change(balancer, "add", name, address=address)
            assert ("up", 1) in [found for one, found in servers(balancer).items() if one == name]
    change(balancer, "remove", "s9")
    assert balancer.status()["live"] == [], "the file says the same"


def test_broken_file_of_changes_costs_nothing_else(nameserver: StartServer, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "live.json").write_text('{"format": 1, "changes": [["dns"')
    with Balancer(tmp_path, [nameserver().address]) as balancer:
        ask(balancer.address)
        assert "live changes are lost" in balancer.output() and "live.broken" in balancer.output()
        assert (state / "live.broken").exists()
        change(balancer, "set", "s1", weight=3)
        assert (state / "live.json").exists()


# Told

@pytest.mark.long
def test_who_did_what_and_when(start: StartBalancer, nameserver: StartServer) -> None:
    http = free_address()
    balancer = start([nameserver().address, nameserver().address], http=[http])
    change(balancer, "set", "s1", weight=3)
    change(balancer, "set", "s1", state="down")
    change(balancer, "remove", "s2", force=True)
    user = balancer.status()["live"][0]["user"]
    assert user

    def shown() -> bool:
        with contextlib.suppress(OSError):      # not listening yet
            return len(json.loads(fetch(http, "/api/v1/status")[1])["live"]) == 3
        return False

    wait_for("in the status of the admin process", shown)
    log = balancer.output()
    one, two = (f"{address}, weight" for address in balancer.settings.servers)
    for line in (f"audit server dns/s1: {one} 1, state auto → {one} 3, state auto: by {user}",
                 f"audit server dns/s1: {one} 3, state auto → {one} 3, state down: by {user}",
                 f"order dns/s1: auto → forced down: state auto → down, by {user}",
                 f"audit server dns/s2: {two} 1, state auto → removed: by {user}",
                 f"order dns/s2: auto → removed: removed ({balancer.settings.servers[1]}), by {user}"):
        assert log.count(line) == 1, line
    assert "server dns/s" not in log.replace("audit server", ""), "how servers are, health tells"
    wait_for("mailed", lambda: running(balancer, "alert") and "order dns/s1 is forced down" in balancer.output())
    change(balancer, "set", "s1", reset=True)
    wait_for("its end", lambda: "order dns/s1 is auto, was forced down" in balancer.output())
    assert balancer.request("alert.list")["result"]["open"] == [], "an order is no trouble"


def test_listed_as_data(start: StartBalancer, nameserver: StartServer) -> None:
    balancer = start([nameserver().address, nameserver().address])
    ns7(balancer, "set", "dns/s2", "--weight", "9")
    listed = json.loads(ns7(balancer, "list", "--json").stdout)
    assert [(server["name"], server["state"], server["weight"]) for server in listed["servers"]] == [
        ("s1", "up", 1), ("s2", "up", 9)]
    assert [(one["server"], one["what"], one["value"]) for one in listed["live"]] == [("s2", "weight", 9)]
    assert balancer.command("server", "list", "web").returncode == 2


# Saved

def test_save_keeps_the_file_as_it_was(start: StartBalancer, nameserver: StartServer) -> None:
    one, two, three = (nameserver() for _ in range(3))
    balancer = start([one.address, two.address])
    text = balancer.config.read_text()
    text = text.replace('name = "s1"', 'name = "s1"   # in the hall').replace("[process]", "# few\n[process]")
    balancer.config.write_text(text)
    ns7(balancer, "set", "s1", "--weight", "4", "--save")
    ns7(balancer, "add", "s3", three.address, "--weight", "2", "--save")
    ns7(balancer, "drain", "s2", "--save", "--wait")
    saved = balancer.config.read_text()
    for line in text.splitlines():
        assert line in saved.splitlines()
    assert len(balancer.status()["live"]) == 3
    assert "nothing changed" in balancer.command("reload").stdout, "the file says what is so already"
    assert balancer.status()["live"] == [], "and is obeyed from now on"
    assert servers(balancer) == {"s1": ("up", 4), "s2": ("drained", 1), "s3": ("up", 2)}
    ns7(balancer, "remove", "s2", "--save")
    balancer.config.write_text(balancer.config.read_text().replace("weight = 4", "weight = 6"))
    assert balancer.command("reload").returncode == 0
    assert servers(balancer) == {"s1": ("up", 6), "s3": ("up", 2)}


def test_change_that_cannot_be_saved_is_made_and_told(start: StartBalancer, nameserver: StartServer) -> None:
    balancer = start([nameserver().address, nameserver().address])
    balancer.config.write_text("this is no TOML")
    done = balancer.command("server", "set", "s1", "--weight", "4", "--save")
    assert done.returncode == 2 and "changed, but not saved" in done.stderr and "not TOML" in done.stderr
    assert servers(balancer)["s1"] == ("up", 4)


# Several at once

@pytest.mark.long
def test_two_operators(start: StartBalancer, nameserver: StartServer) -> None:
    """Each sees what was before; what the table says in the end is what the last one said."""
    balancer = start([nameserver().address for _ in range(3)], workers=2)
    failures: list[BaseException] = []

    def operate(name: str, weights: range) -> None:
        try:
            for weight in weights:
                change(balancer, "set", name, weight=weight)
                change(balancer, "set", "s3", weight=weight)
                if weight % 10 == 0:
                    assert balancer.request("reload")["ok"]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=operate, args=("s1", range(1, 31))),
               threading.Thread(target=operate, args=("s2", range(101, 131)))]
    for thread in threads:
        thread.start()
    seen = load(balancer.address, 200, 1)
    for thread in threads:
        thread.join(30)
    assert not failures and seen.lost == []
    found = servers(balancer)
    assert (found["s1"], found["s2"]) == (("up", 30), ("up", 130))
    last = next(one["value"] for one in balancer.status()["live"] if one["server"] == "s3")
    assert found["s3"] == ("up", last) and last in (30, 130)
    changes = [line for line in balancer.output().splitlines() if "audit server dns/s3: " in line]
    steps = [[word.split("weight ")[1].split(",")[0] for word in line.split(" → ")] for line in changes]
    assert all(before[1] == after[0] for before, after in pairwise(steps))


@pytest.mark.long
def test_two_who_save(start: StartBalancer, nameserver: StartServer) -> None:
    balancer = start([nameserver().address for _ in range(2)])
    both = [subprocess.Popen([*COMMAND, "server", "set", name, "--weight", "8", "--save", "--socket",
                              str(balancer.control)], cwd=ROOT, stdout=subprocess.DEVNULL) for name in ("s1", "s2")]
    assert [one.wait(30) for one in both] == [0, 0]
    assert balancer.config.read_text().count("weight = 8") == 2


@contextlib.contextmanager
def directors(start: StartBalancer, *addresses: str) -> Iterator[tuple[Balancer, Balancer]]:
    """Two with the same servers, each with a component that can ask."""
    found = [start(list(addresses), env=WITNESS, more="[witness]") for _ in range(2)]
    for one in found:
        wait_for("the witness", lambda one=one: running(one, "witness"))     # type: ignore[misc]
    yield found[0], found[1]


def carry(one: Balancer, other: Balancer) -> None:
    """What a component that joins directors does, both ways."""
    value = call(one, "witness.relay", kind="", verb="live")
    back = call(other, "witness.relay", kind="", verb="adopt", arguments=value)
    ours = call(one, "witness.relay", kind="", verb="adopt", arguments=back)
    assert ours == back and ours["digest"] >= ""


def test_changes_follow_to_another_director(start: StartBalancer, nameserver: StartServer) -> None:
    with directors(start, nameserver().address, nameserver().address) as (one, other):
        change(one, "set", "s1", state="drained")
        change(other, "set", "s2", weight=5)
        carry(one, other)
        expected = {"s1": ("drained", 1), "s2": ("up", 5)}
        assert servers(one) == servers(other) == expected
        generation = other.status()["generation"]
        carry(one, other)
        assert other.status()["generation"] == generation, "nothing new, nothing done"
        done = subprocess.run([*COMMAND, "server", "set", "s1", "--weight", "3", "--save", "--socket",
                               str(one.control)], cwd=ROOT, env={**os.environ, **WITNESS}, timeout=30, check=False)
        assert done.returncode == 0
        carry(one, other)
        assert servers(other)["s1"] == ("drained", 3)
        assert one.request("reload")["ok"] and other.request("reload")["ok"]
        assert servers(other)["s1"] == ("drained", 3), "its own file does not have it yet"
        change(other, "set", "s1", reset=True)
        carry(one, other)
        assert (servers(one)["s1"], servers(other)["s1"]) == (("drained", 3), ("up", 1)), "each by its own file"
        answer = one.request("witness.relay", arguments={
            "kind": "", "verb": "adopt", "arguments": {"format": 1, "changes": [["x"]]}})
        assert not answer["ok"] and "not adopted" in answer["error"]

