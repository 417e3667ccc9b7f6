"""Row accounts: dnsperf's own count beside that of ns7, through reloads and drains, then through killed workers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks import goals, ns7
from benchmarks.lab import LabError
from benchmarks.load import Load, run_dnsperf
from benchmarks.report import at_most
from benchmarks.workers.bench import SERVICE, Bench
from benchmarks.workers.crash import worker

RATE, SECONDS, WORKERS = 5_000, 10, 2
PAUSE, KILL_EVERY = 0.5, 2.0
KILLS = int(SECONDS / KILL_EVERY)


def accounts(bench: Bench) -> None:
    """At rest queries = answers + dropped + timeouts = what was sent."""
    bench.start_servers()
    for what, meddle, kills in (("reloads and drains", _change, 0), ("killed workers", _kill, KILLS)):
        bench.start_ns7(WORKERS)
        while not bench.balancer.status()["ready"]:     # a worker that is late has a probe of the start in its queue
            time.sleep(0.1)
        before = _service(bench)
        load = _meanwhile(bench, meddle)
        after = _service(bench)
        counted = after["queries"] - before["queries"]
        kept = sum(after[key] for key in ("answers", "timeouts", "inflight")) + sum(after["dropped"].values())
        off = after["queries"] - kept
        print(f"{what}: dnsperf sent {load.sent:,}, ns7 counted {counted:,}, off by {off}", flush=True)
        bench.run.details.append({"row": bench.row, "what": what, "sent": load.sent, "service": after})
        bar = kills * goals.IN_FLIGHT_APART
        bench.run.goals += [
            at_most(f"{what}: lost", load.lost, goals.LOST, digits=0),
            at_most(f"{what}: counted beside sent", abs(counted - load.sent), bar, digits=0),
            at_most(f"{what}: queries beside what became of them", abs(off), bar, digits=0),
        ]
        bench.lab.stop(bench.balancer.process)


def _service(bench: Bench) -> dict[str, Any]:
    return ns7.find_service(bench.balancer.wait_idle(SERVICE, 10), SERVICE)


def _meanwhile(bench: Bench, meddle: Callable[[Bench, threading.Event], None]) -> Load:
    """dnsperf's report of a load during which `meddle` goes on."""
    done, failures = threading.Event(), list[LabError]()

    def run() -> None:
        try:
            meddle(bench, done)
        except LabError as exc:
            failures.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        return run_dnsperf(bench.listen, bench.servers.queries, SECONDS, RATE)
    finally:
        done.set()
        thread.join()
        if failures:
            raise failures[0]


def _change(bench: Bench, done: threading.Event) -> None:
    service, number = bench.service(), 0
    name = f"{SERVICE}/{ns7.server_name(service.servers[0][0])}"
    while not done.wait(PAUSE):
        number += 1
        if number % 3:
            bench.balancer.request("server.set", server=name, state="drained" if number % 3 == 1 else "auto")
        else:
            changed = replace(service, udp_timeout=f"{2 + number % 2}s")
            bench.balancer.reload(ns7.config_text([changed], WORKERS - number // 3 % 2, bench.balancer.control))


def _kill(bench: Bench, done: threading.Event) -> None:
    last, number = [0] * WORKERS, 0
    while not done.wait(KILL_EVERY):
        place = number % WORKERS
        last[place] = worker(bench, place, last[place])
        os.kill(last[place], signal.SIGKILL)
        number += 1
    time.sleep(PAUSE)
