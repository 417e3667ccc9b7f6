"""How long the virtual address is silent when its director goes: `./dev bench failover`, beside keepalived.

Two directors in network namespaces, BIND behind them, the one-shot client at 1,000 queries a second. Each row is
tried `--trials` times in one cluster. keepalived's rows have the same balancers, but keepalived moves the address.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks import goals, moves
from benchmarks.lab import Lab, LabError
from benchmarks.moves import REFRESH, STANDBY, Field, Trial, down_interval
from benchmarks.report import Goal, at_most, table
from benchmarks.udp import Options, Run
from tests.helpers.cluster import DIRECTORS, Cluster

NS7, BOTH = ("ns7",), ("ns7", "keepalived")
KEEPALIVED_PATH = "/usr/sbin:/sbin:/usr/bin"


class Row(NamedTuple):
    """What is tried at which intervals, by whom. spoiled: in the cluster where named listens everywhere on the standby
    and announcements are frequent; once: it is long and not repeated."""

    what: str
    trial: Trial
    intervals: Sequence[float] = (0.3,)
    peers: Sequence[str] = NS7
    spoiled: bool = False
    once: bool = False


ROWS = {
    "cut": Row("active director cut off", moves.cut, (0.3, 0.1), BOTH),
    "dead": Row("whole unit killed", moves.dead),
    "release": Row("released by command", moves.release),
    "returns": Row("the better one returns", moves.returns),
    "stop": Row("stopped", moves.stop),
    "killed": Row("failover process killed", moves.killed),
    "stalled": Row("stood still for 5 s", moves.stalled),
    "flaps": Row("link flaps", moves.flaps),
    "saturated": Row("saturating load", moves.saturated, once=True),
    "past": Row("moved to where named listens everywhere", moves.past, spoiled=True),
    "poisoned": Row("caches poisoned", moves.poisoned, spoiled=True),
}


@contextmanager
def opened(peer: str, interval: float, spoiled: bool, seconds: float) -> Iterator[Field]:
    """The cluster of one peer at one interval."""
    more = f'arp_refresh = "{REFRESH:g}s"' if spoiled else ""
    with tempfile.TemporaryDirectory() as folder, Cluster(
            Path(folder), f"{interval * 1000:.0f}ms", more=more) as cluster:
        cluster.serve(STANDBY, *(["listen-on { any; };", "bind"] if spoiled else []))
        cluster.serve("ns7c2")
        made = Field(cluster, peer, interval, seconds)
        if peer == "ns7":
            made.directors += cluster.pair()
        else:
            for name, priority in DIRECTORS.items():
                cluster.network[name].sysctl("net.ipv4.ip_nonlocal_bind", 1)
                made.directors.append(cluster.director(name, failover=False))
                cluster.keepalived(name, priority)
        made.settle()
        yield made


def failover(lab: Lab, options: Options) -> Run:
    """Every row asked for, `options.rounds` trials each."""
    run = Run()
    if os.geteuid() != 0:
        run.missing["failover"] = "network namespaces need root"
        return run
    lines: list[list[str]] = []
    chosen = [ROWS[name] for name in options.rows or tuple(ROWS)]
    for peer, interval, spoiled in (("ns7", 0.3, False), ("keepalived", 0.3, False), ("ns7", 0.1, False),
                                    ("keepalived", 0.1, False), ("ns7", 0.3, True)):
        rows = [row for row in chosen if peer in row.peers and interval in row.intervals and row.spoiled == spoiled]
        if not rows:
            continue
        if peer == "keepalived" and not shutil.which(peer, path=KEEPALIVED_PATH):
            run.missing[peer] = "keepalived is not installed"
            continue
        try:
            with opened(peer, interval, spoiled, options.seconds) as made:
                for row in rows:
                    _measure(run, made, row, options.rounds, lines)
        except (AssertionError, LabError) as error:
            run.fail(f"{peer}, {interval:g} s: {error}")
    print("\n" + table(["row", "who", "silent: median", "worst", "healed: median", "worst", "lost: worst"], lines))
    return run


def _measure(run: Run, made: Field, row: Row, rounds: int, lines: list[list[str]]) -> None:
    seen: list[dict[str, float]] = []
    for _ in range(1 if row.once else rounds):
        made.settle()
        seen.append(row.trial(made))
    name = f"{row.what}, {made.interval * 1000:.0f} ms"
    lines.append([name, made.peer, *_times(seen, "silent"), *_times(seen, "healed"),
                  f"{max(one.get('lost', 0) for one in seen):.0f}"])
    print(*lines[-1], sep="  ", flush=True)
    run.details.append({"row": name, "peer": made.peer, "trials": seen})
    if made.peer == "ns7":
        run.goals += _goals(name, row, made.interval, seen)


def _times(seen: list[dict[str, float]], what: str) -> list[str]:
    known = [one[what] for one in seen if what in one]
    return [f"{median(known):.3f} s", f"{max(known):.3f} s"] if known else ["-", "-"]


def _goals(name: str, row: Row, interval: float, seen: list[dict[str, float]]) -> list[Goal]:
    found, trial = [], row.trial

    def worst(what: str, bar: float, unit: str = "", digits: int = 0) -> None:
        value = max(one[what] for one in seen)
        found.append(at_most(f"{name}: {what}, worst of {len(seen)}", value, bar, unit, digits))

    if trial in (moves.cut, moves.dead):
        down = down_interval(interval)
        found.append(at_most(f"{name}: silent, median", median(one["silent"] for one in seen),
                             down + goals.AFTER_DOWN_MEDIAN, " s", 3))
        worst("silent", down + goals.AFTER_DOWN_WORST, " s", 3)
    if trial is moves.dead:
        worst("dead answer", 0)
    if trial in (moves.release, moves.returns, moves.stop, moves.killed, moves.past):
        worst("lost", 0)
    if trial is moves.killed:
        worst("silent", goals.SPARE_ADVERT, " s", 3)
    if trial in (moves.killed, moves.saturated):
        worst("transitions", 0)
    if trial in (moves.stalled, moves.flaps):
        worst("healed", goals.ONE_HOLDER, " s", 3)
    if trial is moves.stalled:
        worst("known", goals.ONE_HOLDER, " s", 3)
        worst("transitions", 2)                         # the other director comes and goes
    if trial is moves.past:
        worst("past", 0)
    if trial is moves.poisoned:
        worst("healed", REFRESH + goals.REFRESH_LATE, " s", 3)
    return found
