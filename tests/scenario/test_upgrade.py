"""`ns7 upgrade`: another supervisor takes over everything that is under way, or nothing has changed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from balancer import __version__
from tests.conftest import OpenClient, OpenTcpClient, StartBalancer, StartServer, StartTcpServer
from tests.helpers import processes, wire
from tests.helpers.client import ask, load
from tests.helpers.daemon import COMMAND, ROOT, Balancer
from tests.helpers.nameserver import NameServer, delayed, silent
from tests.helpers.ports import free_address
from tests.helpers.tcp import TcpClient, TcpServer
from tests.helpers.versions import Versions
from tests.helpers.waiting import wait_for
from tests.scenario.test_components import WITNESS, call, running


@pytest.fixture(autouse=True)
def adopting() -> Iterator[None]:
    with processes.adopting():
        yield


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    (tmp_path / "versions").mkdir()
    return Versions(tmp_path / "versions")


class Asking:
    """Clients over TCP that keep a connection each and ask one query after the other, in threads of their own."""

    def __init__(self, address: str, count: int) -> None:
        self._ended = threading.Event()
        self.answers = 0
        self.closed = 0                     # in order, with nothing outstanding
        self.faults: list[str] = []
        self._threads = [threading.Thread(target=self._ask, args=(address,)) for _ in range(count)]

    def _ask(self, address: str) -> None:
        ident = 0
        while not self._ended.is_set():
            try:
                with TcpClient(address) as client:
                    while not self._ended.is_set():
                        ident = (ident + 1) % 65536
                        client.ask(wire.query(ident=ident))
                        self.answers += 1
                        time.sleep(0.02)
            except EOFError as error:
                if "reset" in str(error):
                    self.faults.append(str(error))
                self.closed += 1
            except (OSError, AssertionError) as error:
                self.faults.append(repr(error))

    def __enter__(self) -> Asking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


def both(nameserver: StartServer, tcpserver: StartTcpServer) -> NameServer:
    """A server on UDP and on TCP."""
    server: NameServer = nameserver()
    tcpserver(port=int(server.address.rpartition(":")[2]))
    return server


def new_supervisor(balancer: Balancer) -> int | None:
    """The one that an upgrade has started."""
    for pid in processes.children_of(balancer.pid):
        with contextlib.suppress(OSError):
            if b"--inherit" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return pid
    return None


def spare(balancer: Balancer) -> int | None:
    """A worker that has loaded its code and waits to be needed."""
    for pid in processes.children_of(balancer.pid):
        if processes.role(pid) == "worker" and pid not in balancer.workers() and (
                "datapath/poller" in Path(f"/proc/{pid}/maps").read_text()):
            return pid
    return None


def begin_upgrade(balancer: Balancer) -> subprocess.Popen[str]:
    argv = [*COMMAND, "upgrade", "--socket", str(balancer.control)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def under_load(balancer: Balancer, upgrades: int, seconds: float) -> None:
    seen: list[tuple[int, ...]] = []

    def look() -> None:
        service = balancer.service()
        seen.append((service["queries"], service["answers"], service["tcp"]["queries"], service["tcp"]["answers"],
                     service["servers"][0]["queries"]))

    steps: list[tuple[float, Callable[[], object]]] = []
    for number in range(upgrades):
        at = 0.3 + number * seconds / upgrades
        steps += [(at, look), (at + 0.01, balancer.upgrade), (at + 0.02, look)]
    with Asking(balancer.address, 4) as asking:
        result = load(balancer.address, 400, seconds, steps)
    assert result.lost == []
    assert asking.faults == []
    assert asking.answers > 0
    for before, after in pairwise(seen):
        assert all(old <= new for old, new in zip(before, after, strict=True)), f"{before} then {after}"
    balancer.wait_handed_over(60)
    service = balancer.wait_idle()
    assert service["queries"] == result.sent + result.twice
    assert service["tcp"]["answers"] == asking.answers
    assert service["timeouts"] == service["tcp"]["timeouts"] == 0


def test_three_times_under_load(start: StartBalancer, nameserver: StartServer, tcpserver: StartTcpServer) -> None:
    """UDP and TCP: nothing lost, nobody reset, no counter falls, nothing stays in flight."""
    servers = [both(nameserver, tcpserver) for _ in range(2)]
    balancer = start([server.address for server in servers], workers=2, process={"upgrade_grace": "3s"})
    under_load(balancer, 3, 7)


@pytest.mark.long
def test_ten_times_under_load(start: StartBalancer, nameserver: StartServer, tcpserver: StartTcpServer) -> None:
    servers = [both(nameserver, tcpserver) for _ in range(2)]
    balancer = start([server.address for server in servers], workers=2)
    under_load(balancer, 10, 40)


@pytest.mark.long
def test_another_version(start: StartBalancer, nameserver: StartServer, versions: Versions) -> None:
    """The launcher leads to it; until the upgrade the old one starts its children from its own folder only."""
    old, new = versions.copy("1.0.1"), versions.copy("1.0.2")
    versions.install(old)
    balancer = start([nameserver().address], command=[str(versions.launcher)])
    assert balancer.status()["version"] == "1.0.1"
    versions.install(new)
    balancer.kill_worker()
    tables = {pid: Path(f"/proc/{pid}/maps").read_text() for pid in balancer.workers()}
    assert all(str(old) in maps and str(new) not in maps for maps in tables.values())
    balancer.upgrade()
    assert balancer.status()["version"] == "1.0.2"
    assert all(str(new) in Path(f"/proc/{pid}/maps").read_text() for pid in balancer.workers())
    ask(balancer.address)
    balancer.wait_handed_over()
    assert balancer.service()["queries"] == 1


@pytest.mark.long
def test_version_replaced_where_it_runs(start: StartBalancer, nameserver: StartServer, versions: Versions) -> None:
    """Files of another version in the running one's own folder: no child of it comes to work, the upgrade does."""
    tree = versions.copy("1.0.1")
    versions.install(tree)
    balancer = start([nameserver().address], command=[str(versions.launcher)])
    wait_for("a spare, and alert", lambda: spare(balancer) and running(balancer, "alert"))
    Versions.edit(tree / "balancer/__init__.py", r"1\.0\.1", "1.0.2")
    balancer.kill_worker()                  # the spare that stood ready takes its place
    wait_for("it is told", lambda: "is of version 1.0.2, this is 1.0.1" in balancer.output())
    wait_for("an alert", lambda: [(one["kind"], one["state"]) for one in call(balancer, "alert.list")["open"]] == [
        ("upgrade", "differs")])
    ask(balancer.address)
    balancer.upgrade()
    wait_for("its end", lambda: running(balancer, "alert") and call(balancer, "alert.list")["open"] == [])
    assert balancer.status()["version"] == "1.0.2"
    ask(balancer.address)


@pytest.mark.long
def test_version_with_another_layout(
    start: StartBalancer, nameserver: StartServer, tcpserver: StartTcpServer, client: OpenClient, versions: Versions
) -> None:
    """A table of its own; counters come by value, at once and, of what the old workers still did, at their end."""
    tree = versions.copy("2.0.0", ("balancer/table/layout.pxd", r"LAYOUT_VERSION = \d+", "LAYOUT_VERSION = 9999"))
    versions.rebuild(tree, "table/table", "table/verdicts", "datapath/query")
    server = both(nameserver, tcpserver)
    balancer = start([server.address], command=_launched(versions), udp_timeout="20s", service={"retry": "off"})
    for _ in range(7):
        ask(balancer.address)
    with TcpClient(balancer.address) as tcp:
        tcp.ask(wire.query())
    server.handler = silent
    one = client(balancer.address)
    one.send(wire.query(ident=8))
    asked = server.wait(8)[-1:]
    before = balancer.service()
    versions.install(tree)
    balancer.upgrade()
    assert balancer.status()["version"] == "2.0.0"
    after = balancer.service()
    assert (after["queries"], after["answers"]) == (before["queries"], before["answers"]) == (8, 7)
    assert after["tcp"]["answers"] == 1 and after["servers"][0]["latency"]["count"] == 7
    server.answer_all(asked)
    one.receive()
    balancer.wait_handed_over()
    server.handler = delayed(0)
    ask(balancer.address)
    service = balancer.wait_idle()
    assert (service["queries"], service["answers"], service["servers"][0]["queries"]) == (9, 9, 9)


REFUSALS = {
    "check": ("balancer/config/model.py", r'duration\("50ms", "60s"\)\)\] = Field\(\n        default="2s", '
              r'validate_default=True, description="How long an answer of a server', 'duration("3s", "60s"))] = Field('
              'default="4s", validate_default=True, description="How long an answer of a server', "udp_timeout"),
    "crash": ("balancer/process/supervisor.py", r"^from balancer import __version__$", "1 / 0",
              "ended with exit code 1"),
    "worker": ("balancer/process/worker.py", r"^from balancer import __version__$", "1 / 0", "a new worker ended"),
    "code of a process": ("balancer/admin/runner.py", r"^async def main", "1 / 0\nasync def main",
                          "admin does not start"),
    "start of a process": ("balancer/alert/runner.py", r"(async def main\(.*\n)", r"\1    1 / 0\n",
                           "alert: does not run"),
    "protocol": ("balancer/process/messages.py", r"^HAND_OVER = \d+", "HAND_OVER = 99", "restart it instead"),
}


@pytest.mark.parametrize("where", [
    pytest.param(where, marks=() if where == "check" else pytest.mark.long)
    for where in REFUSALS])
def test_version_that_fails_changes_nothing(
    start: StartBalancer, nameserver: StartServer, versions: Versions, where: str
) -> None:
    """Under load; the reason is told, and everything goes on as it was."""
    file, pattern, replacement, reason = REFUSALS[where]
    balancer = start([nameserver().address], command=_launched(versions), traceback=True, http=[free_address()])
    wait_for("all run", lambda: all(one["running"] for one in balancer.status()["processes"].values()))
    before = {name: one["pid"] for name, one in balancer.status()["processes"].items()}
    workers = balancer.workers()
    versions.install(versions.copy("6.6.6", (file, f"(?m){pattern}", replacement)))
    told: list[subprocess.CompletedProcess[str]] = []
    seen = load(balancer.address, 300, 3, [(0.3, lambda: told.append(balancer.command("upgrade")))])
    assert seen.lost == []
    assert told[0].returncode == 2
    assert reason in told[0].stderr
    status = balancer.status()
    assert (status["pid"], status["version"], status["retiring"]) == (balancer.pid, "1.0.1", 0)
    assert balancer.workers() == workers
    wait_for("all run", lambda: all(one["running"] for one in balancer.status()["processes"].values()))
    if where != "start of a process":
        assert {name: one["pid"] for name, one in balancer.status()["processes"].items()} == before
    assert new_supervisor(balancer) is None
    balancer.reload(workers=2)


def _launched(versions: Versions) -> list[str]:
    versions.install(versions.copy("1.0.1"))
    return [str(versions.launcher)]


@pytest.mark.long
def test_configuration_of_the_file_as_it_is_now(start: StartBalancer, nameserver: StartServer) -> None:
    """An upgrade reads it anew; a mistake in it refuses the upgrade; counters of what stays stay."""
    first, second = nameserver(), nameserver()
    balancer = start([first.address])
    ask(balancer.address)
    balancer.rewrite(servers=[first.address, second.address], workers=2)
    balancer.upgrade()
    status = balancer.status()
    assert len(status["workers"]) == 2
    assert [server["name"] for server in status["services"][0]["servers"]] == ["s1", "s2"]
    wait_for("both are asked", lambda: ask(balancer.address) and second.received)
    service = balancer.wait_idle()
    assert service["servers"][0]["queries"] == len(first.received)
    balancer.rewrite(servers=[second.address], scheduler="no such rule")
    done = balancer.command("upgrade")
    assert done.returncode == 2 and "no such rule" in done.stderr
    balancer.rewrite(servers=[second.address], scheduler=None)
    balancer.upgrade()
    balancer.wait_handed_over()
    assert [server["name"] for server in balancer.service()["servers"]] == ["s1"]


@pytest.mark.long
@pytest.mark.parametrize("prepared", [False, True], ids=["at once", "with its workers"])
def test_new_supervisor_killed_midway(start: StartBalancer, nameserver: StartServer, prepared: bool) -> None:
    balancer = start([nameserver(delayed(0.05)).address], workers=2)
    workers, begun = balancer.workers(), []

    def kill() -> None:
        begun.append(begin_upgrade(balancer))
        new = wait_for("the new supervisor", lambda: new_supervisor(balancer), every=0.002)
        if prepared:
            wait_for("its workers", lambda: sum(processes.role(pid) == "worker"
                                                for pid in processes.children_of(new)) >= 2, every=0.002)
        os.kill(new, signal.SIGKILL)

    seen = load(balancer.address, 400, 3, [(0.3, kill)])
    assert seen.lost == []
    told = begun[0].communicate(timeout=30)[1]
    assert begun[0].returncode == 2 and "SIGKILL" in told
    assert balancer.workers() == workers
    wait_for("all run", lambda: all(one["running"] for one in balancer.status()["processes"].values()))
    balancer.upgrade()


@pytest.mark.long
def test_old_supervisor_killed_midway(start: StartBalancer, nameserver: StartServer) -> None:
    """What was prepared goes on alone."""
    balancer = start([nameserver(delayed(0.05)).address], workers=2)
    took_over: list[int] = []

    def kill() -> None:
        with begin_upgrade(balancer):
            new = wait_for("the new supervisor", lambda: new_supervisor(balancer), every=0.002)
            wait_for("its processes", lambda: processes.children_of(new), every=0.002)
            os.kill(balancer.pid, signal.SIGKILL)
            took_over.append(new)

    seen = load(balancer.address, 300, 4, [(0.3, kill)], patience=10)
    assert balancer.process.wait(10) == -signal.SIGKILL
    balancer.process = processes.Followed(took_over[0])
    assert seen.lost == []
    wait_for("it is the one", lambda: balancer.status()["pid"] == balancer.pid)
    wait_for("nobody retires", lambda: balancer.status()["retiring"] == 0)
    assert balancer.wait_idle()["queries"] >= seen.sent
    ask(balancer.address)


@pytest.mark.long
def test_old_supervisor_killed_while_it_ends(
    start: StartBalancer, nameserver: StartServer, client: OpenClient
) -> None:
    """Its workers still answer; then the counters are final, and nothing is in flight."""
    server = nameserver(silent)
    balancer = start([server.address], udp_timeout="10s", service={"retry": "off"})
    clients = [client(balancer.address) for _ in range(10)]
    for one in clients:
        one.send(wire.query(ident=4))
    asked = server.wait(10)
    old = balancer.process
    balancer.upgrade()
    os.kill(old.pid, signal.SIGKILL)
    old.wait(10)
    balancer._handed_over.clear()
    server.answer_all(asked)
    assert {wire.ident(one.receive()) for one in clients} == {4}
    wait_for("nobody retires", lambda: balancer.status()["retiring"] == 0)
    service = balancer.wait_idle()
    assert (service["queries"], service["answers"]) == (10, 10)


def test_in_flight_is_answered_and_seen(start: StartBalancer, nameserver: StartServer, client: OpenClient) -> None:
    """Over two upgrades in a row, each of which waits for the one before."""
    server = nameserver(silent)
    balancer = start([server.address], udp_timeout="20s", service={"retry": "off"})
    clients = [client(balancer.address) for _ in range(30)]
    for one in clients[:20]:
        one.send(wire.query(ident=4))
    server.wait(20)
    balancer.upgrade()
    assert (balancer.service()["inflight"], balancer.service()["queries"]) == (20, 20)
    for one in clients[20:]:
        one.send(wire.query(ident=4))
    asked = server.wait(30)
    balancer.upgrade()
    assert balancer.service()["inflight"] == 30
    server.answer_all(asked)
    assert {wire.ident(one.receive()) for one in clients} == {4}
    balancer.wait_handed_over()
    service = balancer.service()
    assert (service["inflight"], service["queries"], service["answers"]) == (0, 30, 30)


def test_tcp_connections(start: StartBalancer, tcpserver: StartTcpServer, tcpclient: OpenTcpClient) -> None:
    """In use: until they are idle, or the grace is over. Idle: closed in order."""
    server: TcpServer = tcpserver()
    balancer = start([server.address], process={"upgrade_grace": "2s"})
    idle, used = tcpclient(balancer.address), tcpclient(balancer.address)
    idle.ask(wire.query())
    answered: list[float] = []

    def ask_on() -> None:
        with contextlib.suppress(EOFError):
            while True:
                used.ask(wire.query())
                answered.append(time.monotonic())
                time.sleep(0.05)

    asking = threading.Thread(target=ask_on)
    asking.start()
    balancer.upgrade()
    with TcpClient(balancer.address) as new:
        new.ask(wire.query())
    idle.wait_closed()
    balancer.wait_handed_over()
    asking.join()
    assert answered[-1] - answered[0] > 1.5
    tcp = balancer.tcp()
    assert tcp["answers"] == len(answered) + 2
    assert {reason for reason, count in tcp["closed"].items() if count} <= {"stop", "client"}


@pytest.mark.long
def test_components_hand_over(start: StartBalancer, nameserver: StartServer) -> None:
    """Each goes on with what its predecessor has left, admin's events and open alerts too."""
    balancer = start([nameserver().address], env=WITNESS, more="[witness]\nnumber = 42", http=[free_address()])
    wait_for("all run", lambda: all(running(balancer, name) for name in ("witness", "alert", "admin")))
    call(balancer, "witness.tell")
    call(balancer, "witness.emit", after="down")
    wait_for("an alert", lambda: call(balancer, "alert.list")["open_total"] == 1)
    balancer.upgrade()
    assert all(running(balancer, name) for name in ("witness", "alert", "admin"))
    assert "witness: stopped in order" in balancer.output()
    call(balancer, "witness.tell")
    wait_for("its totals", lambda: balancer.status()["components"]["witness"] == {
        "starts": 2, "asked": 2, "number": 42, "handed_over": 1})
    assert call(balancer, "alert.list")["open_total"] == 1


@pytest.mark.long
def test_stop_while_the_old_one_still_ends(
    start: StartBalancer, nameserver: StartServer, client: OpenClient
) -> None:
    """The new one ends last: the old one's queries are answered before."""
    server = nameserver(silent)
    balancer = start([server.address], udp_timeout="20s", service={"retry": "off"})
    one = client(balancer.address)
    one.send(wire.query(ident=6))
    asked = server.wait(1)
    old = balancer.process
    balancer.upgrade()
    balancer.terminate()
    wait_for("the old one has heard", lambda: balancer.output().count("ns7 stopping") == 2)
    assert processes.alive(balancer.pid)
    server.answer_all(asked)
    assert wire.ident(one.receive()) == 6
    balancer.wait_ended()
    assert old.wait(10) == 0


@pytest.mark.long
def test_what_is_held_and_counted_goes_along(start: StartBalancer, nameserver: StartServer, client: OpenClient) -> None:
    """Operators' changes; what the kernel has dropped, by address; who wanted the upgrade."""
    balancer = start([nameserver().address, nameserver().address], udp_buffer="64KiB")
    one = client(balancer.address)
    with balancer.frozen():
        for number in range(3000):
            one.send(wire.query(ident=number))
    balancer.wait_idle()
    drops = wait_for("drops", lambda: balancer.status()["socket_drops"]["dns"][balancer.address])
    assert balancer.request("server.set", server="s1", weight=7)["ok"]
    assert balancer.request("server.set", server="s2", state="drained")["ok"]
    live = balancer.status()["live"]
    balancer.upgrade()
    seen: list[int] = []

    def dropped() -> int:
        seen.append(balancer.status()["socket_drops"]["dns"][balancer.address])
        return seen[-1]

    assert dropped() >= drops
    status = balancer.status()
    assert status["live"] == live and len(live) == 2
    assert [(server["state"], server["weight"]) for server in status["services"][0]["servers"]] == [
        ("up", 7), ("drained", 1)]
    wait_for("the old one has ended", lambda: dropped() >= drops and balancer.status()["retiring"] == 0)
    assert dropped() == drops == balancer.service()["socket_drops"] and min(seen) == drops
    assert f"audit upgrade: version {__version__} (pid " in balancer.output()


@pytest.mark.long
def test_two_at_once(start: StartBalancer, nameserver: StartServer) -> None:
    """The second waits, and finds that the one it asked is not the one any more."""
    balancer = start([nameserver().address])
    both = [begin_upgrade(balancer) for _ in range(2)]
    codes = sorted(one.wait(60) for one in both)
    assert codes in ([0, 0], [0, 2]), [one.communicate() for one in both]
    for one in both:
        one.communicate()
    balancer.follow(balancer.status()["pid"])
    ask(balancer.address)


@pytest.mark.long
def test_reload_after_an_upgrade(start: StartBalancer, nameserver: StartServer) -> None:
    server = nameserver()
    balancer = start([server.address])
    balancer.upgrade()
    seen = load(balancer.address, 300, 2, [(0.3, partial(balancer.reload, workers=2))])
    assert seen.lost == []
    balancer.wait_handed_over()
    assert balancer.wait_idle()["queries"] == seen.sent
