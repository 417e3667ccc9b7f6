"""Rows kill and stop: a worker dies, a worker hangs."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from benchmarks import goals, meter
from benchmarks.lab import LabError
from benchmarks.report import at_least
from benchmarks.workers.bench import Bench

WORKERS = 2
KILL_RATE, STOP_RATE = 10_000, 5_000
# A worker's place without a spare behind it is filled with backoff, so each spare gets the time to be one.
KILL_EVERY = 1.5
STOPS, STOP_EVERY = 3, 4.0


def worker(bench: Bench, number: int, but: int = 0) -> int:
    """The pid of a worker once it is there, and another than `but`; LabError when it does not come."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        pid = bench.balancer.workers()[number]
        if pid and pid != but:
            return pid
        time.sleep(0.02)
    raise LabError(f"worker {number} is not there")


def kill(bench: Bench) -> None:
    """Worker after worker is killed."""
    bench.start_servers()
    bench.start_ns7(WORKERS)
    client = bench.client(KILL_RATE, 2 + goals.KILLS * KILL_EVERY)
    last = [0] * WORKERS
    done = 0
    for number in range(goals.KILLS):
        client.wait_until(1 + number * KILL_EVERY)
        place = number % WORKERS
        last[place] = worker(bench, place, last[place])
        if client.second > client.seconds:
            break
        os.kill(last[place], signal.SIGKILL)
        done += 1
    result = bench.took(f"{done} kills", client.result())
    what = f"worker killed at {KILL_RATE:,} qps"
    bench.run.goals.append(at_least(f"{what}: kills", done, goals.KILLS, digits=0))
    bench.lost(what, [result], goals.LOST)
    bench.slowest(what, [result], goals.KILLED_SLOWEST)


def stop(bench: Bench) -> None:
    """A worker is stopped and nobody continues it; whether it is replaced is ns7's affair."""
    bench.start_servers()
    bench.start_ns7(WORKERS)
    client = bench.client(STOP_RATE, 1 + STOPS * STOP_EVERY)
    stopped: list[tuple[int, int | None]] = []
    for number in range(STOPS):
        client.wait_until(1 + number * STOP_EVERY)
        pid = worker(bench, number % WORKERS)
        stopped.append((pid, meter.start_time(pid)))
        os.kill(pid, signal.SIGSTOP)
    result = bench.took(f"{STOPS} stops", client.result())
    for pid, started in stopped:
        if started is not None and meter.start_time(pid) == started:
            print(f"stop: worker (pid {pid}) was not replaced", flush=True)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    what = f"worker stopped at {STOP_RATE:,} qps"
    bench.lost(what, [result], goals.LOST)
    bench.slowest(what, [result], goals.STOPPED_SLOWEST)
