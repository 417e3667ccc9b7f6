"""`python -m benchmarks`: measure ns7 beside its peers on this machine.

Exit code 0: everything asked for was measured (the table says which bars are met); 1: something could not be
measured, or failed; 2: wrong usage; 130: interrupted.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks import ns7, peers, report
from benchmarks.admin import ROWS as ADMIN_ROWS
from benchmarks.admin import admin
from benchmarks.failover import ROWS as FAILOVER_ROWS
from benchmarks.failover import failover
from benchmarks.faults import BACKENDS, faults
from benchmarks.faults import PEERS as FAULT_PEERS
from benchmarks.faults import ROWS as FAULT_ROWS
from benchmarks.health import ROWS as HEALTH_ROWS
from benchmarks.health import health
from benchmarks.lab import Lab, LabError, open_lab
from benchmarks.memory import memory
from benchmarks.micro import micro
from benchmarks.shares import shares
from benchmarks.sync import ROWS as SYNC_ROWS
from benchmarks.sync import sync
from benchmarks.tcp import tcp
from benchmarks.udp import (
    PACED,
    REFERENCE,
    Options,
    Run,
    compare,
    rate_name,
    rest,
    results_table,
    scale,
    scale_name,
)
from benchmarks.workers import ROWS, workers

# Cases whose rows can be chosen, and cases that compare peers.
CHOSEN = {
    "workers": tuple(ROWS), "faults": tuple(FAULT_ROWS), "failover": tuple(FAILOVER_ROWS), "sync": tuple(SYNC_ROWS),
    "health": tuple(HEALTH_ROWS), "admin": tuple(ADMIN_ROWS),
}
TRIALS = 20                 # of each row of "failover"
COMPARED = {"udp": tuple(peers.KINDS), "all": tuple(peers.KINDS), "faults": FAULT_PEERS}
SHORT = {"seconds": 6.0, "rounds": 3}
FULL = {"seconds": 20.0, "rounds": 5}
LENGTHS = {"health": {"seconds": 600.0, "rounds": 20}, "failover": {"seconds": 300.0, "rounds": TRIALS}}
Case = Callable[[Lab, Options], Run]


def compared(lab: Lab, options: Options) -> Run:
    """The comparison with its tables, one per rate."""
    run = compare(lab, options)
    for rate in options.rates:
        print("\n" + results_table(run.rounds, rate, REFERENCE, run.missing))
    return run


def scaled(lab: Lab, options: Options) -> Run:
    """The server-count case with its table."""
    run = scale(lab, replace(options, rates=(0,)))
    if run.rounds:
        print("\nns7 by number of servers, " + results_table(run.rounds, 0, scale_name(2), {}))
    return run


CASES: dict[str, tuple[Case, ...]] = {
    "udp": (compared,),
    "scale": (scaled,),
    "rest": (rest,),
    "shares": (shares,),
    "memory": (memory,),
    "workers": (workers,),
    "tcp": (tcp,),
    "faults": (faults,),
    "failover": (failover,),
    "sync": (sync,),
    "health": (health,),
    "admin": (admin,),
    "micro": (micro,),
    "all": (micro, compared, scaled, shares, memory, tcp),
}
HELP = {
    "udp": "compare the peers; without --rate and --servers a short standard set of the goal list",
    "scale": "ns7 with 64 and 256 servers against itself with 2",
    "rest": "what second servers and suspicion cost while nothing fails (10 rounds or more)",
    "shares": "what part of the queries each server gets",
    "memory": "idle memory, 65,000 queries in flight, twice",
    "workers": "what clients notice when processes of ns7 die, hang or change",
    "tcp": "DNS over TCP: persistent, one query per connection, idle clients, a killed server, transfers",
    "faults": "what clients lose when a server fails, in network namespaces (needs root)",
    "failover": "how long the virtual address is silent when its director goes, in network namespaces (root, an hour)",
    "sync": "how fast an edited zone is served by the other server, and what survives SIGKILL",
    "health": "how soon a server that fails is found, false alarms, what probing costs (40 minutes)",
    "admin": "what it costs to be looked at: metrics, open pages, hostile clients; how soon one sees something",
    "micro": "a pick by each scheduler, a claim and release of an in-flight record; alone, in nanoseconds",
    "all": "every row of the goal list of speed, at full length (about 50 minutes)",
}


def positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("must be greater than 0")
    return value


def peer_list(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if unknown := set(names) - set(peers.KINDS):
        raise argparse.ArgumentTypeError(
            f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(peers.KINDS)}"
        )
    return names


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure ns7 beside its peers.")
    verbs = top.add_subparsers(dest="case", required=True, metavar="CASE")
    for case, text in HELP.items():
        verb = verbs.add_parser(case, help=text, description=text[0].upper() + text[1:] + ".")
        verb.add_argument("--seconds", type=positive, help="length of one measurement (20; standard set 6)")
        verb.add_argument(
            "--rounds", type=int, choices=range(1, 101), metavar="N", help="rounds (5; standard set 3)"
        )
        if case in CHOSEN:
            verb.add_argument(
                "--row", action="append", choices=CHOSEN[case], default=[], help="one row; may be repeated (all)"
            )
        else:
            verb.add_argument(
                "--workers", type=int, choices=(1, 2), default=1, help="workers of each balancer (1)"
            )
        verb.add_argument(
            "--json", type=Path, metavar="FILE", help="result file (benchmarks/results/CASE-DATE.json)"
        )
        verb.add_argument("--ns7", default=ns7.COMMAND, metavar="COMMAND", help="another ns7 to measure")
        if case in COMPARED:
            verb.add_argument(
                "--peers", type=peer_list, default=COMPARED[case], help=f"of {','.join(COMPARED[case])} (all)"
            )
        if case == "faults":
            verb.add_argument("--tcp", action="store_true", help="clients ask over TCP")
            verb.add_argument("--servers", dest="backend", choices=tuple(BACKENDS), default="nsd",
                              help="what the servers run: NSD, or BIND with 2,000 zones (%(default)s)")
        if case == "failover":
            verb.add_argument("--trials", type=int, default=TRIALS, metavar="N", help=f"of each row ({TRIALS})")
        if case == "sync":
            verb.add_argument("--kills", type=int, default=200, metavar="N", help="at random moments (%(default)s)")
            verb.add_argument("--first-kill", type=int, default=0, metavar="N",
                              help="the number of the first one, for runs in pieces (%(default)s)")
        if case == "udp":
            verb.add_argument(
                "--rate", type=int, action="append", metavar="QPS", help="0 = saturation; may be repeated"
            )
            verb.add_argument(
                "--servers", type=int, choices=(2, 64, 256), help="server addresses behind each peer (2)"
            )
    return top


def plan(arguments: argparse.Namespace) -> tuple[Options, tuple[Case, ...]]:
    """What to run, and how long."""
    cases = CASES[arguments.case]
    rates: tuple[int, ...] = (0, *PACED)
    length = LENGTHS.get(arguments.case, FULL)
    if arguments.case == "udp":
        if arguments.rate is None and arguments.servers is None:
            cases, length = (compared, scaled), SHORT
        else:
            rates = tuple(dict.fromkeys(arguments.rate or [0]))
    options = Options(
        seconds=arguments.seconds or length["seconds"],
        rounds=getattr(arguments, "trials", 0) or arguments.rounds or int(length["rounds"]),
        peers=getattr(arguments, "peers", ("ns7",)),
        rates=rates,
        servers=getattr(arguments, "servers", None) or 2,
        workers=getattr(arguments, "workers", 1),
        ns7=arguments.ns7,
        rows=tuple(getattr(arguments, "row", ())),
        backend=getattr(arguments, "backend", "nsd"),
        tcp=getattr(arguments, "tcp", False),
        kills=getattr(arguments, "kills", 0),
        first_kill=getattr(arguments, "first_kill", 0),
    )
    return options, cases


def main() -> int:
    arguments = parser().parse_args()
    options, cases = plan(arguments)
    needed = {"micro": (), "sync": (), "failover": ("named", "dnsperf")}.get(arguments.case, ("dnsperf", "nsd"))
    if absent := [name for name in needed if not shutil.which(name)]:
        print(
            f"{' and '.join(absent)} not installed, nothing can be measured: apt install {' '.join(absent)}"
        )
        return 1
    facts = report.machine(peers.versions(options.peers))
    run = Run()
    try:
        with open_lab() as lab:
            for case in cases:
                try:
                    run.merge(case(lab, options))
                except LabError as exc:
                    run.fail(str(exc))
                    lab.close()
    except KeyboardInterrupt:
        print("\ninterrupted; every process was ended")
        return 130
    print(f"\n{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}")
    if run.rounds:
        print(f"{options.rounds} rounds of {options.seconds:g} s; median (least to greatest)")
    print("\n" + report.goals_table(run.goals))
    for why in [*run.missing.values(), *run.failures]:
        print(f"not measured or failed: {why}")
    doubts = [f"{r.peer}, {rate_name(r.rate)}: {r.doubt}" for r in run.rounds if r.doubt] + run.doubts
    if doubts:
        print("doubtful figures:", *doubts, sep="\n  ")
    raw = {
        "missing": run.missing,
        "failures": run.failures,
        "rounds": [asdict(r) for r in run.rounds],
        "details": run.details,
        "doubts": run.doubts,
    }
    path = report.save(arguments.case, facts, asdict(options), raw, run.goals, arguments.json)
    print(f"raw figures: {path}")
    return 1 if run.failures or run.missing else 0


if __name__ == "__main__":
    sys.exit(main())
