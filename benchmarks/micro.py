"""Micro-benchmarks: what a pick and an in-flight record cost alone, in nanoseconds. No socket, no other process.

A pick is counted with the claim that follows it and the release of an older query, as the data path does it. The
servers have weights 1 to 5, so that a scheduler has something to compare. A record is claimed, gets a leg, is found by
socket and id, and is released.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

from balancer.datapath.query import Slots, slots_size
from balancer.schedule import SCHEDULERS, create
from balancer.table.table import allocate
from benchmarks import goals
from benchmarks.lab import Lab
from benchmarks.report import Goal, at_most, spread, table, told
from benchmarks.udp import Options, Run

SERVERS = (2, 64, 256)
OUTSTANDING = 200
IN_FLIGHT = (1_000, 65_000)
WINDOWS = 51            # short ones: a neighbour spoils some of them, not the median
PER_WINDOW = 20_000


def nanoseconds(work: Callable[[int], object]) -> list[float]:
    """What one round of `work(rounds)` takes of this thread's CPU time, by window."""
    work(PER_WINDOW)
    found = []
    for _ in range(WINDOWS):
        start = time.thread_time_ns()
        work(PER_WINDOW)
        found.append((time.thread_time_ns() - start) / PER_WINDOW)
    return found


def time_scheduler(name: str, servers: int) -> list[float]:
    scheduler = create(name)
    scheduler.rebuild([(slot, 1 + slot % 5) for slot in range(servers)])
    return nanoseconds(lambda rounds: scheduler.time_picks(rounds, OUTSTANDING))


def time_slots(in_flight: int) -> list[float]:
    descriptor = allocate("ns7-bench", slots_size(65_536))
    slots = Slots(descriptor, True, 1, True)
    os.close(descriptor)
    return nanoseconds(lambda rounds: slots.time_rounds(rounds, in_flight))


def micro(_lab: Lab, _options: Options) -> Run:
    """Measure everything; the length is fixed."""
    run = Run()
    rows = []

    def measured(row: str, found: list[float], goal: Callable[[str, float], Goal]) -> None:
        figure = spread(found)
        rows.append([row, figure.text(1) if figure else "-"])
        run.details.append({"row": row, "ns": found})
        run.goals.append(goal(row, statistics.median(found)))

    for name in SCHEDULERS:
        for servers in SERVERS:
            measured(f"{name}, {servers} servers: a pick", time_scheduler(name, servers), _pick_goal(servers))
    for in_flight in IN_FLIGHT:
        measured(f"slots, {in_flight:,} in flight: claim, open, find, close, release", time_slots(in_flight), _told)
    print("\n" + table(["alone", "ns, median (least to greatest)"], rows))
    return run


def _told(row: str, ns: float) -> Goal:
    return told(row, f"{ns:.0f} ns")


def _pick_goal(servers: int) -> Callable[[str, float], Goal]:
    bar = goals.PICK_NS.get(servers)
    return (lambda row, ns: at_most(row, ns, bar, " ns", 0)) if bar else _told
