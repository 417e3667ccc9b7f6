"""What clients lose when a server fails: `./dev bench faults`, ns7 beside dnsdist and nginx in the same run.

A client, a director and two name servers in network namespaces of their own, the servers behind a delay line.
Each trial starts the balancer anew, loads it with the one-shot client and lets one thing break. dnsdist and
nginx have their own health checks on, at their fastest documented (dnsdist) or default (nginx) settings.
"""

from __future__ import annotations

import os
from dataclasses import replace

from benchmarks import peers
from benchmarks.faults.field import Field
from benchmarks.faults.rows import ROWS
from benchmarks.faults.trial import Fault, Trial, run_trial
from benchmarks.lab import Lab, LabError
from benchmarks.report import at_most, table
from benchmarks.udp import Options, Run

__all__ = ["PEERS", "ROWS", "faults"]

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
    for latency in LATENCIES:
        with Field(lab, latency / 1000) as field:
            trials = [
                done
                for fault in rows
                for name in present
                if name in fault.peers
                if (done := attempt(run, field, fault, name, latency, options))
            ]
        print(f"\n{latency:g} ms\n" + trials_table(trials), flush=True)
    return run


def attempt(run: Run, field: Field, fault: Fault, name: str, latency: float, options: Options) -> Trial | None:
    """One trial with its goals; a trial that could not be made is told."""
    what = f"{latency:g} ms, {fault.what}"
    try:
        trial = run_trial(field, fault, name, options.ns7)
    except LabError as exc:
        run.fail(f"{what}, {name}: {exc}")
        return None
    result = trial.result
    judged = [goal for judge in fault.judges for goal in judge(trial)]
    trial.remarks = "; ".join(f"{goal.row} {goal.figure}" for goal in judged)
    print(
        f"{what}, {name}: {len(result.lost):,} lost, slowest {result.latest * 1000:.0f} ms {trial.remarks}", flush=True
    )
    run.details.append({"latency_ms": latency, **trial.told()})
    run.doubts += [f"{what}, {name}: {doubt}" for doubt in trial.doubts()]
    if name == "ns7":
        run.goals.append(at_most(f"{what}: lost", len(result.lost), 0, digits=0))
        if fault.slowest:
            run.goals.append(
                at_most(f"{what}: slowest answer", result.latest_unstalled, fault.slowest[latency], " s", 3)
            )
        run.goals += [replace(goal, row=f"{what}: {goal.row}") for goal in judged]
    return trial


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
                *("-" if value is None else f"{value * 1000:.2f}" for value in (result.p50, result.p99)),
                f"{result.latest * 1000:.0f}",
                f"{sum(length for _, length in result.stalls) * 1000:.0f}" if result.stalls else "-",
                trial.remarks,
            ]
        )
    return table(["fault", "peer", "sent", "lost", "late", "p50", "p99", "slowest", "own stalls", ""], rows)
