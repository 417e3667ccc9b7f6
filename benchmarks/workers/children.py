"""Row children: processes that do not forward die again and again, and forwarding does not notice."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

from benchmarks import goals, meter, ns7
from benchmarks.lab import free_port
from benchmarks.oneshot import Result
from benchmarks.oneshot.process import Client
from benchmarks.report import Goal, at_least, at_most, median, ratios
from benchmarks.servers import ZONE
from benchmarks.workers.bench import Bench

WORKERS = 2
RATE = 5_000
SECONDS = 10.0
# Restarts have a backoff of up to 5 s, so a process dies at most about 12 times a minute.
LONGEST = 900.0
MEAN_PAUSE = 0.1
PAIRS = 10


def sections() -> ns7.Tables:
    """Parts of a configuration that bring processes of their own, or that those need."""
    return {"admin": {"listen": f'["127.0.0.1:{free_port()}"]'}, "health": {"zones": f'["{ZONE}"]'}}


def accepted(bench: Bench) -> ns7.Tables:
    """Those of the sections that this ns7 knows."""
    found: dict[str, Mapping[str, str]] = {}
    for name, settings in sections().items():
        control = bench.lab.folder / "checked.sock"
        text = ns7.config_text([bench.service()], WORKERS, control, {**found, name: settings})
        if ns7.accepts(bench.lab, text, bench.options.ns7):
            found[name] = settings
    return found


def processes(bench: Bench) -> dict[str, int]:
    """The processes beside the workers: name → pid, 0 while it is not there."""
    told = bench.balancer.status().get("processes", {})
    return {name: int(process["pid"]) for name, process in told.items()}


def kill_one(bench: Bench, kills: Counter[str]) -> None:
    """One of those that are there and have not been killed often enough, by chance."""
    there = [(name, pid) for name, pid in processes(bench).items() if pid and kills[name] < goals.CHILD_KILLS]
    if there:
        name, pid = random.choice(there)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            kills[name] += 1


def forwarding_cpu(bench: Bench) -> int:
    """CPU of the workers so far (ns)."""
    return sum(used.clock for pid in bench.balancer.workers() for used in meter.cpu_of_tree(pid).values())


def segment(bench: Bench, what: str, kills: Counter[str] | None) -> tuple[Result, float]:
    """One load, with kills or in peace; CPU of the workers per query (µs)."""
    client = bench.client(RATE, SECONDS)
    client.wait_until(0.5)
    before, begin = forwarding_cpu(bench), time.monotonic()
    if kills is not None:
        kill_until(bench, client, kills)
    client.wait_until(SECONDS - 0.5)
    cpu = (forwarding_cpu(bench) - before) / 1000 / (RATE * (time.monotonic() - begin))
    return bench.took(f"{what}: {cpu:.2f} µs/query", client.result()), cpu


def kill_until(bench: Bench, client: Client, kills: Counter[str]) -> None:
    while (left := SECONDS - 0.5 - client.second) > 0:
        time.sleep(min(left, random.expovariate(1 / MEAN_PAUSE)))
        kill_one(bench, kills)


def children(bench: Bench) -> None:
    """Loads in turn with kills and in peace, until each process was killed often enough."""
    bench.start_servers()
    bench.start_ns7(WORKERS, accepted(bench))
    what = "other processes killed under load"
    deadline = time.monotonic() + 10
    while not (names := list(processes(bench))) and time.monotonic() < deadline:
        time.sleep(0.2)
    if not names:
        bench.run.goals.append(Goal(what, "this ns7 has none beside its workers", "-", None))
        return
    kills: Counter[str] = Counter(dict.fromkeys(names, 0))
    disturbed: list[Result] = []
    peace: dict[int, float] = {}
    killing: dict[int, float] = {}
    end = time.monotonic() + LONGEST
    while min(kills.values()) < goals.CHILD_KILLS and time.monotonic() < end:
        turn = len(disturbed)
        if turn < PAIRS:
            _, peace[turn] = segment(bench, "peace", None)
        result, killing[turn] = segment(bench, "kills", kills)
        disturbed.append(result)
        print(f"children: {', '.join(f'{name} killed {count}' for name, count in kills.items())}", flush=True)
    bench.run.details.append({"row": bench.row, "kills": kills, "cpu_peace": peace, "cpu_kills": killing})
    bench.run.goals += [at_least(f"{name} killed", kills[name], goals.CHILD_KILLS, digits=0) for name in names]
    bench.lost(what, disturbed, goals.LOST)
    ratio = median(ratios(killing, peace))
    bench.run.goals.append(at_most(f"{what}: CPU of forwarding to peace", ratio, goals.CPU_TO_PEACE))
