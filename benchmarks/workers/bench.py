"""One row's bench: name servers, ns7, loads of the one-shot client, and what they showed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict

from benchmarks import ns7, servers
from benchmarks.lab import Address, Lab, LabError, free_port
from benchmarks.load import wait_answer
from benchmarks.oneshot import Result
from benchmarks.oneshot.process import Client
from benchmarks.report import at_most, table
from benchmarks.udp import Options, Run

SERVICE = "bench"
START_SECONDS = 20.0
LISTED = 200  # times of lost queries that the JSON lists


class Bench:
    """Started things end with the lab; figures go to the run."""

    def __init__(self, lab: Lab, options: Options, run: Run, row: str) -> None:
        self.lab, self.options, self.run, self.row = lab, options, run, row
        self.listen = Address("127.0.0.1", free_port())
        self.balancer: ns7.Balancer
        self._loads: list[tuple[str, Result]] = []

    def start_servers(self, count: int = 2, processes: int | None = None) -> None:
        """`count` addresses, each with an NSD of its own unless told."""
        self.servers = servers.start(self.lab, processes=processes or count, addresses=count)

    def service(self, addresses: Sequence[Address] | None = None, more: Sequence[Address] = ()) -> ns7.Service:
        """The one service, toward all servers unless told."""
        chosen = self.servers.addresses if addresses is None else addresses
        return ns7.Service(SERVICE, self.listen, [(address, 1) for address in chosen], more=more)

    def start_ns7(self, workers: int, more: ns7.Tables | None = None) -> float:
        """Start ns7 and wait until it answers; the seconds that took."""
        begin = time.monotonic()
        name, command = f"ns7-{self.row}", self.options.ns7
        self.balancer = ns7.start(self.lab, name, [self.service()], workers, command, more)
        process = self.balancer.process
        if not wait_answer(self.listen, servers.PROBE, begin + START_SECONDS, process.alive):
            raise LabError(f"ns7 does not answer: {process.last_words()}")
        return time.monotonic() - begin

    def client(self, rate: float, seconds: float, name: str = "udp", more: Sequence[str] = ()) -> Client:
        """A load that begins in a moment."""
        return Client(self.lab, f"client-{name}", self.listen, self.servers.queries, rate, seconds, more)

    def took(self, what: str, result: Result) -> Result:
        """Note a load for the table and the JSON."""
        self._loads.append((what, result))
        told = asdict(result)
        told["lost"], told["lost_at"] = len(result.lost), result.lost[:LISTED]
        self.run.details.append({"row": self.row, "load": what, **told})
        self.run.doubts += [f"{self.row}, {what}: {doubt}" for doubt in result.doubt]
        return result

    def lost(self, what: str, results: Sequence[Result], bar: int) -> None:
        """The row of lost queries."""
        self.run.goals.append(at_most(f"{what}: lost", sum(len(r.lost) for r in results), bar, digits=0))

    def slowest(self, what: str, results: Sequence[Result], bar: float) -> None:
        """The row of the slowest answer, without the client's own stalls."""
        worst = max((r.latest_unstalled for r in results if r.answered), default=None)
        self.run.goals.append(at_most(f"{what}: slowest answer", worst, bar, " s", 3))

    def print_loads(self) -> None:
        if self._loads:
            print(f"\n{self.row}\n" + loads_table(self._loads), flush=True)


def loads_table(loads: Sequence[tuple[str, Result]]) -> str:
    """One line per load; times in milliseconds. Late: answered after all, but too late; they are among the lost."""
    head = [
        "load",
        "qps",
        "sent",
        "lost",
        "late",
        "twice",
        "refused",
        "reset",
        "closed",
        "p50",
        "p99",
        "slowest",
        "own stalls",
    ]
    rows = []
    for what, result in loads:
        stalls = sum(length for _, length in result.stalls)
        rows.append(
            [
                what,
                f"{result.rate:,.0f}",
                *(
                    f"{count:,}"
                    for count in (
                        result.sent,
                        len(result.lost),
                        result.late,
                        result.twice,
                        result.refused,
                        result.reset,
                        result.closed,
                    )
                ),
                *("-" if value is None else f"{value * 1000:.2f}" for value in (result.p50, result.p99)),
                f"{result.latest * 1000:.1f}",
                f"{stalls * 1000:.0f} ({len(result.stalls)})" if result.stalls else "-",
            ]
        )
    return table(head, rows)
