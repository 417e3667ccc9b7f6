"""Row balance: two workers at saturation know of each other's queries, so equal servers are equally loaded."""

from __future__ import annotations

import statistics
import threading

from benchmarks import goals, ns7
from benchmarks.load import percentile, run_dnsperf
from benchmarks.report import at_most, table, told
from benchmarks.shares import share_error
from benchmarks.workers.bench import SERVICE, Bench

WORKERS = 2
EVERY = 0.05


class Sampler:
    """A thread that asks for the queries in flight, server by server, until it is left."""

    def __init__(self, balancer: ns7.Balancer) -> None:
        self._balancer = balancer
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self.samples: list[list[int]] = []

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            service = ns7.find_service(self._balancer.status(), SERVICE)
            self.samples.append([int(server["inflight"]) for server in service["servers"]])

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(15)


def balance(bench: Bench) -> None:
    """dnsperf at saturation. A sample is no snapshot, so the median of the differences is held to the bar.

    Both addresses are one NSD's: least connection follows the speed of the servers, and two processes of a shared
    machine are never equally fast.
    """
    bench.start_servers(processes=1)
    bench.start_ns7(WORKERS)
    run_dnsperf(bench.listen, bench.servers.queries, 1.0)
    before = ns7.server_queries(bench.balancer.status(), SERVICE)
    with Sampler(bench.balancer) as sampler:
        load = run_dnsperf(bench.listen, bench.servers.queries, bench.options.seconds)
    after = ns7.server_queries(bench.balancer.status(), SERVICE)
    counts = [b - a for a, b in zip(before, after, strict=True)]
    error = share_error(counts, [1] * len(counts))
    # The first and the last samples may fall outside the load.
    samples = [sample for sample in sampler.samples[1:-1] if sum(sample)]
    apart = [float(max(sample) - min(sample)) for sample in samples]
    means = [statistics.fmean(column) for column in zip(*samples, strict=True)]
    typical = statistics.median(apart) if apart else None
    print(
        "\nbalance\n"
        + table(
            ["server", "queries", "in flight, mean"],
            [[f"{n}", f"{c:,}", f"{m:.1f}"] for n, (c, m) in enumerate(zip(counts, means, strict=False), 1)],
        )
    )
    bench.run.details.append(
        {"row": bench.row, "qps": load.qps, "lost": load.lost, "counts": counts, "samples": samples}
    )
    row = f"{WORKERS} workers at saturation"
    bench.run.goals += [
        at_most(f"{row}: in flight apart, median of {len(apart)}", typical, goals.IN_FLIGHT_APART, digits=0),
        told(f"{row}: in flight apart, 90 of 100", f"{percentile(apart, 0.9) or 0:.0f}"),
        at_most(f"{row}: shares of equal servers", error, goals.SHARE_ERROR, " %", 3),
        at_most(f"{row}: lost", load.lost, goals.LOST, digits=0),
    ]
