"""How long the virtual address is silent when its director goes: `./dev bench failover`, beside keepalived.

Two directors in network namespaces, BIND behind them, the one-shot client at 1,000 queries a second. Each row is
tried `--trials` times in one cluster. keepalived's rows have the same balancers, but keepalived moves the address.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import goals
from benchmarks.lab import Lab
from benchmarks.report import Goal, at_most, table
from benchmarks.udp import Options, Run
from failover.advert import PROTOCOL
from tests.helpers.cluster import DIRECTORS, Cluster, failover_pid
from tests.helpers.daemon import Balancer
from tests.helpers.waiting import wait_for

RATE = 1000
ACTIVE, STANDBY = DIRECTORS
LOOK = 0.5                  # seconds of load before anything happens
PATIENCE = 1.0              # seconds until an unanswered query is lost
SO_TIMESTAMPNS = 35


def down_interval(interval: float) -> float:
    """Active_Down_Interval of the standby (RFC 9568 §6.1)."""
    return 3 * interval + (256 - DIRECTORS[STANDBY]) * interval / 256


@dataclass
class Field:
    """A cluster with both directors at work."""

    cluster: Cluster
    peer: str
    interval: float
    directors: list[Balancer] = field(default_factory=list)

    def settle(self) -> None:
        """The better director active, everybody heard."""
        self.cluster.network.mend(ACTIVE)
        if self.peer == "ns7":
            for balancer in self.directors:
                balancer.request("failover.auto")
        self.cluster.wait_holder(ACTIVE)
        wait_for("answers", self.cluster.answers)
        time.sleep(1)

    def transitions(self) -> int:
        return sum(int(self.cluster.state(each)["counts"].get("transitions", 0)) for each in self.directors)


@contextmanager
def opened(peer: str, interval: float) -> Iterator[Field]:
    """The cluster of one peer at one interval."""
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder), f"{interval * 1000:.0f}ms") as cluster:
        for name in ("ns7c1", "ns7c2"):
            cluster.serve(name)
        made = Field(cluster, peer, interval)
        if peer == "ns7":
            made.directors += cluster.pair()
        else:
            for name, priority in DIRECTORS.items():
                cluster.network[name].sysctl("net.ipv4.ip_nonlocal_bind", 1)
                made.directors.append(cluster.director(name, failover=False))
                cluster.keepalived(name, priority)
        made.settle()
        yield made


def load(made: Field, what: Callable[[], object], seconds: float) -> tuple[Any, float]:
    """The result, and when `what` began, by the result's clock."""
    began: list[float] = []

    def act() -> None:
        began.append(time.monotonic())
        what()

    result = made.cluster.load(seconds, [(LOOK, act)], qps=RATE, patience=PATIENCE)
    return result, began[0] - result.start


def cut(made: Field) -> dict[str, float]:
    """The active director's link is cut: as powered off."""
    result, began = load(made, lambda: made.cluster.network.cut(ACTIVE), LOOK + 2 * down_interval(made.interval) + 0.5)
    lost = [sent for sent in result.lost if sent >= began]
    return {"silent": max(lost, default=began) - began, "lost": len(result.lost)}


def release(made: Field) -> dict[str, float]:
    """`ns7 failover release` on the active director."""
    result, _ = load(made, lambda: made.directors[0].request("failover.release"), LOOK + 1.5)
    return {"lost": len(result.lost)}


def returns(made: Field) -> dict[str, float]:
    """The better director takes the address back."""
    made.directors[0].request("failover.release")
    made.cluster.wait_holder(STANDBY)
    result, _ = load(made, lambda: made.directors[0].request("failover.auto"), LOOK + 2.5)
    return {"lost": len(result.lost)}


def killed(made: Field) -> dict[str, float]:
    """SIGKILL of the failover process; "silent" is from there to the next advert, as the client's host hears it."""
    victim, before = failover_pid(made.directors[0]), made.transitions()
    client = made.cluster.network["client"]
    with client.socket(socket.AF_INET, socket.SOCK_RAW, PROTOCOL) as one:
        one.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        member = socket.inet_aton("224.0.0.18") + socket.inet_aton(client.address4)
        one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        at: list[float] = []

        def kill() -> None:
            at.append(time.time())
            os.kill(victim, signal.SIGKILL)

        result, _ = load(made, kill, LOOK + 2.0)
        heard = list(_stamps(one))
    time.sleep(1.5)                                     # until a spare stands ready again
    first = min((stamp - at[0] for stamp in heard if stamp > at[0]), default=9.0)
    return {"silent": first, "lost": len(result.lost), "transitions": made.transitions() - before}


def _stamps(one: socket.socket) -> Iterator[float]:
    one.setblocking(False)
    while True:
        try:
            _, ((_, _, stamp),), _, _ = one.recvmsg(2048, 64)
        except BlockingIOError:
            return
        yield int.from_bytes(stamp[:8], "little") + int.from_bytes(stamp[8:16], "little") / 1e9


ROWS: dict[str, tuple[str, Callable[[Field], dict[str, float]], tuple[float, ...], tuple[str, ...]]] = {
    "cut": ("active director cut off", cut, (0.3, 0.1), ("ns7", "keepalived")),
    "release": ("released by command", release, (0.3,), ("ns7",)),
    "returns": ("the better one returns", returns, (0.3,), ("ns7",)),
    "killed": ("failover process killed", killed, (0.3,), ("ns7",)),
}


def failover(lab: Lab, options: Options) -> Run:
    """Every row asked for, `options.rounds` trials each."""
    run = Run()
    if os.geteuid() != 0:
        run.missing["failover"] = "network namespaces need root"
        return run
    lines = []
    chosen = [ROWS[name] for name in options.rows or tuple(ROWS)]
    for peer, interval in (("ns7", 0.3), ("keepalived", 0.3), ("ns7", 0.1), ("keepalived", 0.1)):
        rows = [row for row in chosen if peer in row[3] and interval in row[2]]
        if not rows:
            continue
        if peer == "keepalived" and not shutil.which(peer, path="/usr/sbin:/sbin:/usr/bin"):
            run.missing[peer] = "keepalived is not installed"
            continue
        try:
            with opened(peer, interval) as made:
                for what, trial, _, _ in rows:
                    seen = []
                    for _ in range(options.rounds):
                        made.settle()
                        seen.append(trial(made))
                    name = f"{what}, {interval * 1000:.0f} ms"
                    lines.append(_line(name, peer, seen))
                    print(*lines[-1], sep="  ", flush=True)
                    run.details.append({"row": name, "peer": peer, "trials": seen})
                    if peer == "ns7":
                        run.goals += _goals(name, trial, interval, seen)
        except AssertionError as error:
            run.fail(f"{peer}, {interval:g} s: {error}")
    print("\n" + table(["row", "who", "silent: median", "worst", "lost: median", "worst"], lines))
    return run


def _line(name: str, peer: str, seen: list[dict[str, float]]) -> list[str]:
    silent, lost = [one.get("silent") for one in seen], [one["lost"] for one in seen]
    known = [one for one in silent if one is not None]
    times = [f"{median(known):.3f} s", f"{max(known):.3f} s"] if known else ["-", "-"]
    return [name, peer, *times, f"{median(lost):.0f}", f"{max(lost):.0f}"]


def _goals(name: str, trial: object, interval: float, seen: list[dict[str, float]]) -> list[Goal]:
    silent, lost = [one.get("silent", 0.0) for one in seen], max(one["lost"] for one in seen)
    if trial is cut:
        down = down_interval(interval)
        return [at_most(f"{name}: silent, median", median(silent), down + goals.AFTER_DOWN_MEDIAN, " s", 3),
                at_most(f"{name}: silent, worst", max(silent), down + goals.AFTER_DOWN_WORST, " s", 3)]
    found = [at_most(f"{name}: lost", lost, 0, digits=0)]
    if trial is killed:
        found.append(at_most(f"{name}: next advert, worst", max(silent), goals.SPARE_ADVERT, " s", 3))
        found.append(at_most(f"{name}: transitions", max(one["transitions"] for one in seen), 0, digits=0))
    return found
