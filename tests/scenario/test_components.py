"""The component contract: one component that uses every part of it, one that fails wherever it can."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import OpenClient, StartBalancer, StartServer
from tests.helpers import processes, wire
from tests.helpers.client import ask, load
from tests.helpers.daemon import COMMAND, ROOT, Balancer
from tests.helpers.nameserver import NameServer
from tests.helpers.ports import free_address
from tests.helpers.waiting import wait_for
from tests.scenario.test_admin import fetch

HOMES = Path(__file__).parents[1] / "components"
SECTION = "[witness]\nnumber = 42"
WITNESS = {"PYTHONPATH": str(HOMES / "witness")}
CRASHER = {"PYTHONPATH": str(HOMES / "crasher")}
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
NET_BIND_SERVICE, NET_RAW = 1 << 10, 1 << 13


def call(balancer: Balancer, verb: str, /, timeout: float = 10, **arguments: Any) -> Any:
    answer = balancer.request(verb, arguments=arguments, timeout=timeout)
    assert answer["ok"], answer
    return answer["result"]


def running(balancer: Balancer, name: str) -> bool:
    return bool(balancer.status()["processes"].get(name, {}).get("running"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    """One for all: what a test changes in its file, the next one's `witness` sets back."""
    with NameServer() as server, Balancer(tmp_path_factory.mktemp("witness"), [server.address], env=WITNESS,
                                          more=SECTION, http=[free_address()]) as balancer:
        yield balancer


@pytest.fixture
def witness(shared: Balancer) -> Balancer:
    if shared.settings.more != SECTION:
        shared.reload(more=SECTION)
    wait_for("the witness", lambda: running(shared, "witness") and running(shared, "admin"))
    return shared


def asked(witness: Balancer) -> int:
    """How often it was, as it has published."""
    return int(witness.status()["components"].get("witness", {}).get("asked", 0))


def test_host_has_all_it_promises(witness: Balancer) -> None:
    before = call(witness, "witness.tell")["queries"]
    ask(witness.address)
    witness.wait_idle()
    told = call(witness, "witness.tell", x=1)
    assert (told["number"], told["services"], told["queries"]) == (42, ["dns"], before + 1)
    assert told["servers"] == list(witness.settings.servers)
    assert (told["arguments"], told["state"]) == ({"x": 1}, f"{witness.folder}/state")
    assert told["raw"] is (os.geteuid() == 0), "it kept the right it asked for"
    assert not {"scapy", "dns", "aiohttp", "prometheus_client"} & set(told["modules"])


def test_verbs(witness: Balancer) -> None:
    assert call(witness, "witness.slow", seconds=0.05) == "done"
    for verb, fields, reason in (
        ("witness.refuse", {}, "the witness refuses"),
        ("witness.nonsense", {}, "unknown verb nonsense"),
        ("witness.slow", {"arguments": {"seconds": 60}, "timeout": 0.2}, "not done within 0.2 s"),
        ("nobody.tell", {}, "nobody does not run on this host"),
        ("nonsense", {}, "unknown verb nonsense"),
        ("witness.tell", {"timeout": "soon"}, "timeout must be"),
        ("witness.tell", {"arguments": [1]}, "arguments an object"),
    ):
        answer = witness.request(verb, **fields)
        assert not answer["ok"] and reason in answer["error"], answer
    assert call(witness, "witness.relay", kind="", verb="status")["node"]
    assert call(witness, "witness.relay", kind="alert", verb="list")["open_total"] == 0
    answer = witness.request("witness.relay", arguments={"kind": "", "verb": "stop"})
    assert not answer["ok"] and "live and adopt, not stop" in answer["error"]


def test_events_and_snapshots_reach_admin_and_alert(witness: Balancer) -> None:
    call(witness, "witness.emit", after="down")
    wait_for("an open alert", lambda: call(witness, "alert.list")["open_total"] == 1)
    call(witness, "witness.emit", after="up")
    wait_for("no open alert", lambda: call(witness, "alert.list")["open_total"] == 0)
    (http,) = witness.settings.http
    before = asked(witness)
    call(witness, "witness.tell")

    def shown() -> bool:
        seen = json.loads(fetch(http, "/api/v1/status")[1])["components"].get("witness")
        return seen == {"says": 42} and f"ns7_witness_asked_total {before + 1}.0".encode() in fetch(http, "/metrics")[1]

    wait_for("status and metrics of the witness", shown)


def test_configuration_reaches_it(witness: Balancer) -> None:
    witness.reload(more="[witness]\nnumber = 5")
    wait_for("the new number", lambda: call(witness, "witness.tell")["number"] == 5)
    bad = witness.settings
    witness.rewrite(more="[witness]\nnumber = 500")
    done = witness.command("reload")
    assert done.returncode == 2 and "witness.number" in done.stderr and "100" in done.stderr
    assert call(witness, "witness.tell")["number"] == 5
    witness.reload(more="")
    wait_for("stopped", lambda: "witness" not in witness.status()["processes"])
    assert "stopped in order" in witness.output()
    witness.reload(more=bad.more)
    wait_for("runs again", lambda: running(witness, "witness"))


def test_totals_survive_its_crash(witness: Balancer) -> None:
    call(witness, "witness.tell")
    before = witness.status()["components"]["witness"]
    for _ in range(3):
        call(witness, "witness.tell")
    wait_for("published", lambda: asked(witness) == before["asked"] + 3)
    victim = witness.status()["processes"]["witness"]["pid"]
    os.kill(victim, signal.SIGKILL)
    wait_for("another one", lambda: witness.status()["processes"]["witness"]["pid"] not in (0, victim))
    wait_for("running", lambda: running(witness, "witness"))
    wait_for("its totals", lambda: witness.status()["components"]["witness"] == {
        "starts": before["starts"] + 1, "asked": before["asked"] + 3, "number": 42})


def test_command_and_doctor(witness: Balancer) -> None:
    environment = {**os.environ, **WITNESS}

    def ns7(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, env=environment, cwd=ROOT,
                              timeout=30, check=False)

    done = ns7("witness", "--socket", str(witness.control))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["arguments"] == {"from": "command"}
    before = ns7("doctor", "-c", str(witness.config), "--json")
    assert before.returncode == len(json.loads(before.stdout)), "of this host"
    witness.rewrite(more="[witness]\nnumber = 13")
    done = ns7("doctor", "-c", str(witness.config))
    assert done.returncode == before.returncode + 1
    assert "the witness's number is 13  [witness.number]" in done.stdout and "sed -i" in done.stdout
    code = "import sys; from balancer.cli import parser; parser(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT,
                             check=True).stdout.split()
    assert not {"pydantic", "rich", "scapy", "aiohttp", "dns", "uvloop"} & set(modules), "ns7 --help must stay light"


def rights(pid: int) -> dict[str, int]:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return {name: int(lines[name], 16) for name in CAPABILITIES} | {"NoNewPrivs": int(lines["NoNewPrivs"])}


def test_rights_of_every_process(witness: Balancer) -> None:
    """By what the kernel says: nobody but who asked for it keeps anything, and nobody can get it back."""
    kept = {"worker": 0, "admin": NET_BIND_SERVICE, "alert": 0, "witness": NET_RAW}
    seen = set()
    for pid in processes.children_of(witness.pid):
        kind = processes.role(pid)
        seen.add(kind)
        has = rights(pid)
        root = os.geteuid() == 0
        assert has["NoNewPrivs"] == 1, kind
        assert has["CapEff"] == has["CapPrm"] == (kept[kind] if root else 0), kind
        assert has["CapInh"] == has["CapAmb"] == 0, kind
        if root:
            assert has["CapBnd"] == 0, kind
    assert seen == set(kept)


def test_code_of_every_process(witness: Balancer) -> None:
    """By what the kernel has mapped: a worker has the data path and uvloop, no model, no HTTP, no mail."""
    heavy = {"pydantic_core", "aiohttp", "multidict", "frozenlist"}
    for pid in processes.children_of(witness.pid):
        maps = Path(f"/proc/{pid}/maps").read_text()
        kind = processes.role(pid)
        if kind == "worker":
            assert not [name for name in heavy if name in maps], kind
            assert "datapath/poller" in maps and "uvloop" in maps
        else:
            assert "datapath/poller" not in maps, kind
        if kind != "admin":
            assert "aiohttp" not in maps, kind


FAILURES = [
    "start", "return", "wrong message", "garbage", "flood", "ill event", "config", "callback", "huge", "block", "deaf",
    "stop",
]


@pytest.mark.parametrize("where", [
    where if where in ("start", "garbage", "block", "stop") else pytest.param(where, marks=pytest.mark.long)
    for where in FAILURES])
def test_crashes_cost_nobody_else_anything(start: StartBalancer, nameserver: StartServer, where: str) -> None:
    """Under load: no query lost, no other process restarted, and it all still ends in order."""
    balancer = start([nameserver().address], env=CRASHER, more=f'[crasher]\nwhere = "{where}"', traceback=True,
                     http=[free_address()])
    workers = balancer.workers()
    changes = [(0.4, partial(balancer.reload, more=f'[crasher]\nwhere = "{where}"')),
               (0.6, partial(balancer.request, "crasher.raise")), (0.8, partial(balancer.request, "status"))]
    seen = load(balancer.address, 300, 1, changes)
    assert seen.lost == []
    status = balancer.status()
    assert balancer.workers() == workers
    for name in ("admin", "alert"):
        assert status["processes"][name]["restarts"] == 0
    balancer.wait_idle()


def test_crash_at_import(start: StartBalancer, nameserver: StartServer) -> None:
    """It is tried again, with growing pauses; everything else runs."""
    environment = {**CRASHER, "CRASHER_IMPORT": "1"}
    balancer = start([nameserver().address], env=environment, more='[crasher]\nwhere = ""', traceback=True)
    wait_for("tried again", lambda: balancer.status()["processes"]["crasher"]["restarts"] >= 3)
    ask(balancer.address)
    assert not running(balancer, "crasher")


def test_ends_for_good_and_is_told(start: StartBalancer, nameserver: StartServer) -> None:
    """Exit code 2: an alert, no restart."""
    balancer = start([nameserver().address], env=CRASHER, more='[crasher]\nwhere = "for good"')
    wait_for("an alert", lambda: running(balancer, "alert") and call(balancer, "alert.list")["open_total"] == 1)
    process = balancer.status()["processes"]["crasher"]
    assert (process["pid"], process["restarts"], process["running"]) == (0, 0, False)
    assert "has no rights" in balancer.output()


def test_requests_to_a_process_that_dies(start: StartBalancer, nameserver: StartServer) -> None:
    balancer = start([nameserver().address], env=CRASHER, more='[crasher]\nwhere = ""', traceback=True)
    wait_for("it runs", lambda: running(balancer, "crasher"))
    answer = balancer.request("crasher.raise")
    assert not answer["ok"] and "crasher has ended" in answer["error"]
    wait_for("it runs again", lambda: running(balancer, "crasher"))
    answer = balancer.request("crasher.never", timeout=0.2)
    assert not answer["ok"] and "0.2 s" in answer["error"]
    answer = balancer.request("crasher.unspeakable")
    assert not answer["ok"]
    ask(balancer.address)


def test_broken_component_is_a_clear_line(tmp_path: Path) -> None:
    """One that cannot be loaded: exit code 2, no traceback."""
    home = tmp_path / "broken"
    (home / "ns7_broken-1.dist-info").mkdir(parents=True)
    (home / "ns7_broken-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: ns7-broken\nVersion: 1\n")
    (home / "ns7_broken-1.dist-info" / "entry_points.txt").write_text("[ns7.components]\nbroken = nowhere:AT_ALL\n")
    done = subprocess.run([*COMMAND, "check", "-c", "/dev/null"], capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": str(home)}, timeout=30, check=False)
    assert done.returncode == 2
    assert "component broken" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.long
def test_killed_at_random_under_load(
    start: StartBalancer, nameserver: StartServer, client: OpenClient
) -> None:
    """Admin, alert and the component, again and again: forwarding does not notice."""
    balancer = start([nameserver().address], env=WITNESS, more="[witness]", http=[free_address()], workers=2)
    wait_for("all run", lambda: all(running(balancer, name) for name in ("admin", "alert", "witness")))

    def kill(number: int) -> None:
        victims = [pid for pid in processes.children_of(balancer.pid) if processes.role(pid) != "worker"]
        if victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victims[number % len(victims)], signal.SIGKILL)

    seen = load(balancer.address, 500, 5, [(0.3 + 0.2 * number, partial(kill, number)) for number in range(20)])
    assert seen.lost == [] and seen.twice == 0
    wait_for("all run again", lambda: all(running(balancer, name) for name in ("admin", "alert", "witness")), 30)
    assert all(worker["restarts"] == 0 for worker in balancer.status()["workers"])
    one = client(balancer.address)
    assert wire.ident(one.ask(wire.query(ident=9))) == 9
