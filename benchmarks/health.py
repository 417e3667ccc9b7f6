"""How soon health finds what is wrong, what it costs, and whether it cries wolf: `./dev bench health`.

Real BIND and NSD, a real ns7 with its defaults. Each trial lets one thing break at a random moment, waits until ns7's
status says so, and mends it. `--rounds` is the number of trials, `--seconds` the length of the rows without a fault.
"""

from __future__ import annotations

import contextlib
import random
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import goals, meter, ns7
from benchmarks.lab import ROOT, Address, Lab, LabError, free_port
from benchmarks.load import run_dnsperf
from benchmarks.oneshot.process import Client
from benchmarks.report import at_most, told
from benchmarks.udp import Options, Run
from tests.helpers.netns import Namespace, require_netns
from tests.helpers.zoned import ZONE, Zoned

SERVICE = "bench"
MON = "/usr/lib/mon/mon.d/dns.monitor"
POLL = 0.003                    # seconds between two looks at the status
PATIENCE = 30.0
RELOAD_EACH = 30.0              # seconds between two reloads of many zones
MANY_ZONES = 20_000
IDLE_CLIENTS = 200              # that wait for the one connection of an NSD


class Stand:
    """A master (BIND), a second server (NSD), and ns7 before them."""

    def __init__(self, lab: Lab, options: Options, run: Run, row: str) -> None:
        self.lab, self.options, self.run, self.row = lab, options, run, row
        self.listen = Address("127.0.0.1", free_port())
        self.balancer: ns7.Balancer

    @contextlib.contextmanager
    def opened(self, extra: str = "", **section: str) -> Iterator[tuple[Zoned, Zoned]]:
        """Everything is up and known to be."""
        folder = self.lab.folder / self.row
        with Zoned("named", folder / "named") as master, Zoned("nsd", folder / "nsd", more="tcp-count: 1") as second:
            self.start([Address(one.host, one.port) for one in (master, second)], extra, **section)
            yield master, second
            self.lab.stop(self.balancer.process)

    def start(self, addresses: list[Address], extra: str = "", **section: str) -> None:
        service = ns7.Service(SERVICE, self.listen, [(address, 1) for address in addresses], extra=extra)
        first = addresses[0]
        tables = {"health": {"zones": f'["{ZONE}"]', "master": f'"{first}"', "flap_period": '"0s"', **section}}
        self.balancer = ns7.start(self.lab, f"ns7-{self.row}", [service], 1, self.options.ns7, tables)
        self.wait("all are up", lambda: all(health["verdict"] == "up" for server in self.servers()
                                            for health in server["health"].values()))

    def servers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ns7.find_service(self.balancer.status(), SERVICE)["servers"]
        return found

    def published(self) -> dict[str, Any]:
        found: dict[str, Any] = self.balancer.status()["components"].get("health", {})
        return found

    def wait(self, what: str, true: Callable[[], bool]) -> float:
        """Seconds until it is true."""
        begin = time.monotonic()
        while True:
            with contextlib.suppress(LabError):         # it may still be starting
                if true():
                    return time.monotonic() - begin
            if time.monotonic() - begin > PATIENCE:
                raise LabError(f"{self.row}: {what}: not within {PATIENCE:g} s")
            time.sleep(POLL)

    def wait_state(self, number: int, *states: str) -> float:
        return self.wait(f"server {number} {'/'.join(states)}", lambda: self.servers()[number]["state"] in states)

    def found(self, what: str, seconds: list[float], bar: float, reason: str = "") -> None:
        """One row: the worst of the trials."""
        self.run.details.append({"row": self.row, "what": what, "seconds": seconds, "reason": reason})
        self.run.goals.append(at_most(f"{what}, worst of {len(seconds)}", max(seconds), bar, " s", 3))
        ordered = sorted(seconds)
        note = f" ({reason})" if reason else ""
        print(f"{what}: {ordered[0]:.3f} to {ordered[-1]:.3f} s, median {ordered[len(ordered) // 2]:.3f} s{note}",
              flush=True)


def trials(stand: Stand, number: int, state: str, fault: Callable[[], None], mend: Callable[[], None],
           proto: str = "udp") -> tuple[list[float], str]:
    """Seconds from each fault until the state is told, and the reason that is told with it."""
    took, reason = [], ""
    for _ in range(stand.options.rounds):
        time.sleep(random.random())
        fault()
        took.append(stand.wait_state(number, state))
        reason = stand.servers()[number]["health"][proto]["reason"]
        mend()
        stand.wait_state(number, "up")
    return took, reason


def killed(stand: Stand) -> None:
    """Probes alone: suspicion is off, and there is no traffic."""
    with stand.opened('suspend = "off"\n') as (_, second):
        took, reason = trials(stand, 1, "down", second.stop, second.start)
        stand.found("named killed, probes alone", took, goals.HEALTH_FOUND, reason)


def killed_loaded(stand: Stand) -> None:
    """Under load: how soon its verdict is down, over UDP and over both."""
    queries = stand.lab.folder / "health-queries.txt"
    queries.write_text(f"www.{ZONE} A\nns.{ZONE} A\n")
    marked, both = [], []

    def verdict() -> str:
        found: str = stand.servers()[1]["health"]["udp"]["verdict"]
        return found

    with stand.opened() as (_, second):
        for number in range(stand.options.rounds):
            client = Client(stand.lab, f"client-{number}", stand.listen, queries, 2000, 4)
            client.wait_until(1 + random.random())
            second.stop()
            begin = time.monotonic()
            marked.append(stand.wait("down over UDP", lambda: verdict() == "down"))
            stand.wait_state(1, "down")
            both.append(time.monotonic() - begin)
            lost = len(client.result().lost)
            if lost:
                stand.run.fail(f"{stand.row}: {lost} queries lost")
            second.start()
            stand.wait_state(1, "up")
    stand.found("killed under load, marked down", marked, goals.HEALTH_FOUND_LOADED)
    stand.found("killed under load, down over TCP too", both, goals.HEALTH_FOUND)


def frozen(stand: Stand) -> None:
    with stand.opened() as (_, second):
        took, reason = trials(stand, 1, "down", lambda: second.signal(signal.SIGSTOP),
                              lambda: second.signal(signal.SIGCONT))
        stand.found("frozen", took, goals.HEALTH_FOUND, reason)


def removed(stand: Stand) -> None:
    with stand.opened() as (master, _):
        took, reason = trials(stand, 0, "down", lambda: master.serve({"other.example": 1}),
                              lambda: master.serve({ZONE: 1}))
        stand.found("zone removed", took, goals.HEALTH_FOUND, reason)


def tcp(stand: Stand) -> None:
    """The one connection that it takes is somebody else's."""
    with stand.opened() as (_, second), contextlib.ExitStack() as idle:
        def fault() -> None:
            for _ in range(IDLE_CLIENTS):
                idle.enter_context(socket.create_connection((second.host, second.port)))

        took, reason = trials(stand, 1, "degraded", fault, idle.close, "tcp")
        stand.found("TCP alone dead", took, goals.HEALTH_FOUND, reason)


def behind(stand: Stand) -> None:
    took = []
    with stand.opened() as (master, second):
        for serial in range(2, stand.options.rounds + 2):
            time.sleep(random.random())
            master.serve({ZONE: serial})
            stand.wait("the master has it", lambda serial=serial: master.serial() == serial)     # type: ignore[misc]
            took.append(stand.wait("behind", lambda: bool(stand.published()["behind"])))
            second.serve({ZONE: serial})
            stand.wait("current", lambda: not stand.published()["behind"])
    stand.found("serial behind", took, goals.HEALTH_FOUND)


def calm(stand: Stand) -> None:
    """Saturating load on the same cores: nobody may be called down."""
    queries = stand.lab.folder / "health-queries.txt"
    queries.write_text(f"www.{ZONE} A\nns.{ZONE} A\n")
    with stand.opened() as _:
        before = stand.published()["changes"]
        load = run_dnsperf(stand.listen, queries, stand.options.seconds)
        _alarms(stand, f"{stand.options.seconds:g} s of saturating load ({load.qps:,.0f} qps)", before)


def reloading(stand: Stand) -> None:
    """A BIND with very many zones that is told to load them all again and again."""
    zones = {ZONE: 1} | {f"z{number}.example": 1 for number in range(MANY_ZONES)}
    folder = stand.lab.folder / stand.row
    with Zoned("named", folder / "named", zones) as master:
        stand.start([Address(master.host, master.port)])
        before = stand.published()["changes"]
        end, reloads = time.monotonic() + stand.options.seconds, 0
        while time.monotonic() < end:
            for path in folder.glob("named/*.zone"):
                path.touch()
            master.signal(signal.SIGHUP)
            reloads += 1
            time.sleep(min(RELOAD_EACH, max(0.0, end - time.monotonic())))
        _alarms(stand, f"{stand.options.seconds:g} s, {MANY_ZONES:,} zones reloaded {reloads} times", before)
        stand.lab.stop(stand.balancer.process)


def _alarms(stand: Stand, what: str, before: int) -> None:
    time.sleep(2)                       # what was found last is published
    published = stand.published()
    count = published["changes"] - before
    print(f"{what}: {count} false alarms; probes {published['probes']}", flush=True)
    stand.run.details.append({"row": stand.row, "what": what, "alarms": count, "probes": published["probes"]})
    stand.run.goals.append(at_most(f"{what}: false alarms", count, 0, digits=0))


def cost(stand: Stand) -> None:
    """256 servers, UDP and TCP each second."""
    hosts = [f"127.0.7.{number}" for number in range(1, 129)]
    folder = stand.lab.folder / stand.row
    with contextlib.ExitStack() as stack:
        found: list[Address] = []
        for number in range(2):
            port = free_port(hosts)
            more = "tcp-count: 500\n" + "\n".join(f"  ip-address: {host}@{port}" for host in hosts[1:])
            stack.enter_context(Zoned("nsd", folder / str(number), more=more, host=hosts[0], port=port))
            found += [Address(host, port) for host in hosts]
        stand.start(found)
        pid = stand.balancer.status()["processes"]["health"]["pid"]
        seconds = min(20.0, stand.options.seconds)
        probes = sum(stand.published()["probes"].values())
        before, begin = meter.cpu_of_tree(pid), time.monotonic()
        time.sleep(seconds)
        used, took = meter.cpu_between(before, meter.cpu_of_tree(pid)), time.monotonic() - begin
        probes = sum(stand.published()["probes"].values()) - probes
        stand.run.goals.append(at_most(
            f"256 servers, {probes / took:.0f} probes per second", 100 * used.clock / 1e9 / took,
            goals.HEALTH_CORE_PERCENT, " % of a core", 1))
        stand.lab.stop(stand.balancer.process)


def monitor(stand: Stand) -> None:
    """Ten servers, one of them frozen; `ns7 monitor` and mon's dns.monitor, both with their defaults."""
    if not Path(MON).exists():
        stand.run.missing["mon"] = f"{MON} is not there (apt install mon)"
        return
    require_netns()
    hosts = [f"127.0.0.{number}" for number in range(2, 12)]
    folder = stand.lab.folder / stand.row
    with contextlib.ExitStack() as stack:
        inside = stack.enter_context(Namespace("monitor"))
        with inside.entered():
            more = "\n".join(f"  ip-address: {host}@53" for host in hosts[1:9])
            stack.enter_context(Zoned("nsd", folder / "good", more="tcp-count: 50\n" + more, host=hosts[0], port=53))
            dead = stack.enter_context(Zoned("nsd", folder / "dead", host=hosts[9], port=53))
        dead.signal(signal.SIGSTOP)
        took = {}
        for name, command in (("ns7", [*shlex.split(stand.options.ns7), "monitor"]), ("mon", [MON])):
            begin = time.monotonic()
            done = subprocess.run([*inside.prefix, *command, "-zone", ZONE, "-master", hosts[0], *hosts], cwd=ROOT,
                                  capture_output=True, text=True, check=False)
            took[name] = time.monotonic() - begin
            if done.returncode != 1 or not done.stdout.startswith(f"{hosts[9]}({ZONE}) "):
                raise LabError(f"{name}: exit code {done.returncode}, {done.stdout!r} {done.stderr!r}")
        dead.signal(signal.SIGCONT)
    stand.run.goals.append(told("one dead of ten: ns7 monitor, mon", f"{took['ns7']:.2f} s, {took['mon']:.2f} s"))
    stand.run.goals.append(at_most("one dead of ten, to mon's time", took["ns7"] / took["mon"],
                                   goals.HEALTH_MONITOR_TO_MON))


ROWS: dict[str, Callable[[Stand], None]] = {
    "killed": killed, "loaded": killed_loaded, "frozen": frozen, "removed": removed, "tcp": tcp, "behind": behind,
    "calm": calm, "reloading": reloading, "cost": cost, "monitor": monitor,
}


def health(lab: Lab, options: Options) -> Run:
    """Measure the rows asked for."""
    run = Run()
    for name in options.rows or tuple(ROWS):
        try:
            ROWS[name](Stand(lab, options, run, name))
        except (LabError, AssertionError) as exc:
            run.fail(f"{name}: {exc}")
        lab.close()
    return run
