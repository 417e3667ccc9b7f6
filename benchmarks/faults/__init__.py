"""What clients lose when a server fails: `./dev bench faults`, ns7 beside dnsdist and nginx in the same run.

A client, a director and two name servers in network namespaces of their own, the servers behind a delay line: NSD, or
with `--servers bind2000` BIND with 2,000 zones. With `--tcp` clients ask over TCP, as far as a fault is one there.
Each trial starts the balancer anew, loads it with the one-shot client and lets one thing break. dnsdist and
nginx have their own health checks on, at their fastest documented (dnsdist) or default (nginx) settings.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from itertools import groupby

from benchmarks import peers
from benchmarks.faults.backends import BACKENDS
from benchmarks.faults.field import Field
from benchmarks.faults.rows import ROWS
from benchmarks.faults.trial import Fault, Trial, run_trial
from benchmarks.lab import Lab, LabError
from benchmarks.oneshot import Result
from benchmarks.report import at_most, table, told
from benchmarks.udp import Options, Run

__all__ = ["BACKENDS", "PEERS", "ROWS", "faults"]

LATENCIES = (0.2, 20.0)  # ms, round trip
PEERS = ("ns7", "dnsdist", "nginx")


def faults(lab: Lab, options: Options) -> Run:
    """All trials asked for; each fault meets the peers one after the other."""
    run = Run()
    if os.geteuid() != 0:
        run.missing["faults"] = "network namespaces and TAP devices need root"
        print(f"MISSING: {run.missing['faults']}", flush=True)
        return run
    present = []
    for name in options.peers:
        if why := peers.missing(name, options.ns7):
            run.missing[name] = why
            print(f"MISSING: {why}", flush=True)
        else:
            present.append(name)
    rows = [ROWS[name] for name in options.rows or tuple(ROWS)]
    rows = [fault for fault in rows if fault.tcp or not options.tcp]
    usual = BACKENDS[options.backend]
    if not shutil.which(usual.program):
        run.missing["faults"] = f"{usual.program} is not installed"
        return run
    for latency in LATENCIES:
        trials: list[Trial] = []
        for (names, backend), some in groupby(rows, lambda fault: (fault.servers, fault.backend)):
            with Field(lab, latency / 1000, backend or usual, options.tcp, names) as field:
                trials += [done for fault in some for name in present if name in fault.peers
                           if (done := attempt(run, field, fault, name, latency, options))]
        how = f"{options.backend}{', over TCP' if options.tcp else ''}, {latency:g} ms"
        print(f"\n{how}\n{trials_table(trials)}", flush=True)
    return run


def attempt(run: Run, field: Field, fault: Fault, name: str, latency: float, options: Options) -> Trial | None:
    """One trial with its goals; a trial that could not be made is told."""
    what = f"{'TCP, ' if options.tcp else ''}{latency:g} ms, {fault.what}"
    try:
        trial = run_trial(field, fault, name, options.ns7)
    except LabError as exc:
        run.fail(f"{what}, {name}: {exc}")
        return None
    result = trial.result
    # Over TCP nobody but ns7 tells how many queries went where.
    judged = [goal for judge in fault.judges for goal in judge(trial)] if name == "ns7" or not options.tcp else []
    trial.remarks = "; ".join(f"{goal.row} {goal.figure}" for goal in judged)
    print(
        f"{what}, {name}: {len(result.lost):,} lost, slowest {result.latest * 1000:.0f} ms {trial.remarks}", flush=True
    )
    run.details.append({"latency_ms": latency, **trial.told()})
    run.doubts += [f"{what}, {name}: {doubt}" for doubt in trial.doubts()]
    if name == "ns7":
        run.goals.append(told(f"{what}: lost", f"{len(result.lost):,}") if fault.two_die
                         else at_most(f"{what}: lost", len(result.lost), 0, digits=0))
        run.goals.append(at_most(f"{what}: answers but NOERROR", other_rcodes(result), 0, digits=0))
        if fault.slowest:
            run.goals.append(
                at_most(f"{what}: slowest answer", result.latest_unstalled, fault.slowest[latency], " s", 3)
            )
        run.goals += [replace(goal, row=f"{what}: {goal.row}") for goal in judged]
    return trial


def other_rcodes(result: Result) -> int:
    """Answers that say that there is none."""
    return sum(count for rcode, count in result.rcodes.items() if rcode != "NOERROR")


def trials_table(trials: list[Trial]) -> str:
    """One line per trial; times in milliseconds."""
    rows = []
    for trial in trials:
        result = trial.result
        rows.append(
            [
                trial.fault.what,
                trial.peer,
                f"{result.sent:,}",
                f"{len(result.lost):,}",
                f"{result.late:,}",
                f"{other_rcodes(result):,}",
                *("-" if value is None else f"{value * 1000:.2f}" for value in (result.p50, result.p99)),
                f"{result.latest * 1000:.0f}",
                f"{sum(length for _, length in result.stalls) * 1000:.0f}" if result.stalls else "-",
                trial.remarks,
            ]
        )
    return table(["fault", "peer", "sent", "lost", "late", "failed", "p50", "p99", "slowest", "own stalls", ""], rows)
