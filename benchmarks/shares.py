"""Shares: does each server get its part of the queries? Asked of ns7 itself, per-server `queries`.

Two equal servers and three with weights 1:2:3; wlc and wrr; one query at a time, 100 qps, saturation. The
error is the worst server's: |share - due share| / due share. At saturation least connection follows the speed of
the servers, not the weights alone; so all addresses are served by one NSD process, and are equally fast.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks import goals, ns7, peers, servers
from benchmarks.lab import Address, Lab, LabError, free_port
from benchmarks.load import ask, connected, run_dnsperf, wait_answer
from benchmarks.report import at_most, table
from benchmarks.udp import Options, Run

LOADS = ("one at a time", "100 qps", "saturation")
# Multiples of the sums of the weights: a whole number of turns has no rounding error of its own.
SERIAL_QUERIES = 6000
TURN = 6
CASES: tuple[tuple[str, tuple[int, ...]], ...] = (("equal", (1, 1)), ("1:2:3", (1, 2, 3)))


def share_error(counts: Sequence[int], weights: Sequence[int]) -> float:
    """The worst server's deviation from its due share, in percent of that share."""
    total, weight = sum(counts), sum(weights)
    if not total:
        raise LabError("no server got a query")
    dues = [total * w / weight for w in weights]
    return 100 * max(abs(count - due) / due for count, due in zip(counts, dues, strict=True))


def bar(weights: Sequence[int], scheduler: str, load: str) -> float:
    """Percent that the worst server may err."""
    if scheduler == "wrr":
        return goals.SHARE_ERROR_WRR
    if load == "saturation":
        return goals.SHARE_ERROR_SATURATED
    return goals.SHARE_ERROR if len(set(weights)) == 1 else goals.SHARE_ERROR_WEIGHTED


def _apply(load: str, target: Address, backends: servers.Servers, seconds: float) -> None:
    if load == "saturation":
        run_dnsperf(target, backends.queries, seconds)
    elif load == "100 qps":
        _ask_in_turn(target, max(TURN, int(100 * seconds) // TURN * TURN), 0.01)
    else:
        _ask_in_turn(target, SERIAL_QUERIES, 0.0)


def _ask_in_turn(target: Address, count: int, interval: float) -> None:
    start = time.monotonic()
    with connected(target) as sock:
        for n in range(count):
            time.sleep(max(0.0, start + n * interval - time.monotonic()))
            if ask(sock, servers.PROBE, 2.0) is None:
                raise LabError("a query asked alone was lost")


def shares(lab: Lab, options: Options) -> Run:
    """Measure all cases; one ns7 per case and scheduler."""
    run = Run()
    rows: list[list[str]] = []
    if why := peers.missing("ns7", options.ns7):
        run.missing["ns7"] = why
        print(f"MISSING: {why}", flush=True)
        run.goals.append(at_most("shares", None, goals.SHARE_ERROR, " %"))
        return run
    backends = servers.start(lab, processes=1, addresses=3)
    for case, weights in CASES:
        for scheduler in ("wlc", "wrr"):
            listen = Address("127.0.0.1", free_port())
            chosen = list(zip(backends.first(len(weights)), weights, strict=True))
            service = ns7.Service("shares", listen, chosen, scheduler)
            balancer = ns7.start(
                lab, f"ns7-{scheduler}-{len(weights)}", [service], options.workers, options.ns7
            )
            process = balancer.process
            for load in LOADS:
                row = f"shares {case}, {scheduler}, {load}"
                error = None
                try:
                    if not wait_answer(listen, servers.PROBE, time.monotonic() + 15, process.alive):
                        raise LabError(f"ns7 does not answer: {process.last_words()}")
                    before = ns7.server_queries(balancer.status(), "shares")
                    _apply(load, listen, backends, options.seconds)
                    after = ns7.server_queries(balancer.status(), "shares")
                    counts = [b - a for a, b in zip(before, after, strict=True)]
                    error = share_error(counts, weights)
                    rows.append([row, ", ".join(f"{count:,}" for count in counts), f"{error:.3f}"])
                    run.details.append({"row": row, "counts": counts, "error_percent": error})
                except LabError as exc:
                    run.fail(f"{row}: {exc}")
                run.goals.append(at_most(row, error, bar(weights, scheduler, load), " %", 3))
            lab.stop(process)
    lab.close()
    print("\n" + table(["case", "queries per server", "error %"], rows))
    return run
