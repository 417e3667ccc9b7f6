"""Memory: an idle worker, and 65,000 queries in flight to a server that never answers, twice.

While the silent service fills up, a second service of the same ns7 with a live server is probed and must lose
nothing. After `udp_timeout` every query must have been counted as a timeout. The second flood must not make
the worker grow: records are claimed once. Figures come from smaps_rollup of the workers; pages of the shared
in-flight slots (memfd) count in Rss, Pss and Pss_Shmem.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict

from benchmarks import goals, meter, ns7, peers, servers
from benchmarks.lab import Address, Lab, LabError, free_port
from benchmarks.load import Prober, connected, query, wait_answer
from benchmarks.report import Goal, at_least, at_most, table
from benchmarks.udp import Options, Run

IN_FLIGHT = 65_000
SOCKETS = 20
PER_SECOND = 30_000
BURST = 100
UDP_TIMEOUT = 6
MIB = 1 << 20


def flood(socks: Sequence[socket.socket], count: int = IN_FLIGHT) -> int:
    """Send `count` queries, each with its own (source port, id); paced, so no socket buffer overflows."""
    start = time.monotonic()
    for sent in range(count):
        if sent % BURST == 0:
            time.sleep(max(0.0, start + sent / PER_SECOND - time.monotonic()))
        socks[sent % len(socks)].send(query(servers.PROBE, sent // len(socks)))
    time.sleep(0.5)
    return count


def total(memories: list[meter.Memory]) -> meter.Memory:
    """The sum over several workers."""
    return meter.Memory(
        sum(m.rss for m in memories), sum(m.pss for m in memories), sum(m.shmem for m in memories)
    )


def _row(name: str, memory: meter.Memory) -> list[str]:
    return [name, *(f"{value / MIB:.2f}" for value in (memory.rss, memory.pss, memory.shmem))]


def memory(lab: Lab, options: Options) -> Run:
    """Measure an idle ns7, then both floods."""
    run = Run()
    if why := peers.missing("ns7", options.ns7):
        run.missing["ns7"] = why
        print(f"MISSING: {why}", flush=True)
        run.goals.append(Goal("memory", "not measured", "", None))
        return run
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        try:
            _floods(lab, options, run, Address(*silent.getsockname()))
        except LabError as exc:
            run.fail(f"memory: {exc}")
    lab.close()
    return run


def _floods(lab: Lab, options: Options, run: Run, silent: Address) -> None:
    backends = servers.start(lab)
    dead = ns7.Service(
        "silent", Address("127.0.0.1", free_port()), [(silent, 1)], udp_timeout=f"{UDP_TIMEOUT}s"
    )
    live = ns7.Service("live", Address("127.0.0.1", free_port()), [(a, 1) for a in backends.addresses])
    balancer = ns7.start(lab, "ns7-memory", [dead, live], options.workers, options.ns7)
    if not wait_answer(live.listen, servers.PROBE, time.monotonic() + 15, balancer.process.alive):
        raise LabError(f"ns7 does not answer: {balancer.process.last_words()}")

    workers = balancer.workers()

    def now() -> meter.Memory:
        return total([meter.memory(pid) for pid in workers])

    idle, readings = now(), []
    rows = [_row("idle", idle)]
    sent = 0
    with ExitStack() as stack:
        # Open to the end: an answer to an expired query must not meet a closed port.
        socks = [stack.enter_context(connected(dead.listen)) for _ in range(SOCKETS)]
        prober = stack.enter_context(Prober(live.listen, servers.PROBE, 100))
        for number in (1, 2):
            sent += flood(socks)
            peak = now()
            in_flight = ns7.find_service(balancer.status(), "silent")["inflight"]
            service = ns7.find_service(balancer.wait_idle("silent", UDP_TIMEOUT + 10), "silent")
            rest = now()
            readings.append((in_flight, peak, rest, service["timeouts"]))
            rows += [
                _row(f"flood {number}: {in_flight:,} in flight", peak),
                _row(f"after flood {number}", rest),
            ]
    print("\n" + table(["workers", "Rss MiB", "Pss MiB", "Pss_Shmem MiB"], rows))
    (in_flight, peak1, rest1, _), (_, peak2, rest2, timeouts) = readings
    floods = [
        {"in_flight": n, "peak": asdict(p), "rest": asdict(r), "timeouts": t} for n, p, r, t in readings
    ]
    run.details.append(
        {
            "idle": asdict(idle),
            "floods": floods,
            "sent": sent,
            "timeouts": timeouts,
            "dropped": service["dropped"],
            "socket_drops": service["socket_drops"],
            "live_answered": len(prober.latencies),
            "live_lost": prober.lost,
        }
    )
    bytes_each = (peak1.pss - idle.pss) / in_flight if in_flight else None
    growth = max(peak2.pss - peak1.pss, rest2.pss - rest1.pss)
    run.goals += [
        at_most("idle worker: Rss", idle.rss / MIB / len(workers), goals.IDLE_RSS / MIB, " MiB", 1),
        at_most("memory per query in flight (Pss)", bytes_each, goals.BYTES_IN_FLIGHT, " B", 0),
        at_least("queries in flight, least of both floods", min(r[0] for r in readings), IN_FLIGHT, digits=0),
        Goal("all expired: timeouts of sent", f"{timeouts:,} of {sent:,}", "equal", timeouts == sent),
        at_most("growth by the second flood (Pss)", growth / MIB, goals.GROWTH_SECOND_ROUND / MIB, " MiB"),
        at_most("lost by the live service meanwhile", prober.lost, goals.LOST, digits=0),
    ]
