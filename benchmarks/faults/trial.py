"""One trial: one balancer, one load, one fault."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks import peers, servers
from benchmarks.faults.backends import Backend
from benchmarks.faults.field import SERVERS, START_SECONDS, Field
from benchmarks.lab import Address, LabError
from benchmarks.load import wait_answer
from benchmarks.oneshot import Result
from benchmarks.oneshot.process import Client
from benchmarks.peers import Running
from benchmarks.report import Goal
from tests.helpers.unit import Manager

RATE = 5_000
# Clients over TCP: pipelined on connections that stay, or a connection per query; at rates that the client and the
# delay line keep on two cores.
KEPT, LONE = "kept", "lone"
TCP = {KEPT: ["--tcp", "--connections", "64"], LONE: ["--tcp"]}
TCP_RATES = {KEPT: 5_000, LONE: 500}
LISTEN_PORT = 5301
STEP, LEAST_WAIT = 0.25, 0.005
LISTED = 200
LATE_LINE = 0.02  # seconds by which a delay line may be late before its latencies are doubted


@dataclass(frozen=True)
class Fault:
    """`begin` is called `at` seconds after the start of the load, `end` at `until`. `bad` queries per second that
    no server answers are mixed in. `slowest` is the bar (seconds) by latency (ms). `peers`: whom it can happen to.
    managed: ns7 runs under a service manager that keeps its sockets. tcp: what clients over TCP do, "" when it does not
    happen to them. servers, backend: when it takes other servers than the usual ones. two_die: two servers at once,
    so what had gone to both is lost."""

    what: str
    begin: Callable[[Field], object]
    end: Callable[[Field], object] = lambda field: None
    at: float = 2.0
    until: float = 5.0
    seconds: float = 8.0
    rate: float = RATE
    bad: float = 0.0
    each: bool = False
    slowest: Mapping[float, float] | None = None
    judges: Sequence[Callable[[Trial], Sequence[Goal]]] = ()
    peers: Sequence[str] = ("ns7", "dnsdist", "nginx")
    managed: bool = False
    tcp: str = ""
    servers: Sequence[str] = SERVERS
    backend: Backend | None = None
    two_die: bool = False


@dataclass
class Trial:
    """What was seen. `samples` are (second, datagrams that came to s1, to s2) so far; `began` and `ended` when the
    fault did, by the same clock. dead: the servers that ended by themselves; log: what the balancer said."""

    fault: Fault
    peer: str
    result: Result
    samples: list[tuple[float, int, int]]
    began: float
    ended: float
    line_late: float
    upgraded: Sequence[float]  # CLOCK_MONOTONIC
    dead: Sequence[str] = ()
    log: str = ""
    remarks: str = ""

    def shares(self, since: float, until: float) -> tuple[float, float]:
        """Datagrams per second that came to s1 and to s2 in that time."""
        inside = [sample for sample in self.samples if since <= sample[0] <= until]
        if len(inside) < 2:
            raise LabError(f"no samples from {since:g} s to {until:g} s")
        (first, *one), (last, *other) = inside[0], inside[-1]
        return (other[0] - one[0]) / (last - first), (other[1] - one[1]) / (last - first)

    def doubts(self) -> list[str]:
        late = f"the delay line was up to {self.line_late * 1000:.0f} ms late"
        return [*self.result.doubt, *([late] if self.line_late > LATE_LINE else [])]

    def told(self) -> dict[str, Any]:
        """For the JSON."""
        result = asdict(self.result)
        result["lost"], result["lost_at"] = len(self.result.lost), self.result.lost[:LISTED]
        del result["each"]
        return {
            "fault": self.fault.what,
            "peer": self.peer,
            "began": self.began,
            "ended": self.ended,
            "line_late": self.line_late,
            "samples": self.samples,
            **result,
        }


class Clock:
    """Does what is due; `done` are the seconds at which it was, for a late step is not a late fault."""

    def __init__(self, client: Client, field: Field, fault: Fault) -> None:
        self._client, self._field = client, field
        self._steps = [(fault.at, fault.begin), (fault.until, fault.end)]
        self.done: list[float] = []

    def step(self) -> None:
        while self._steps and self._steps[0][0] <= self._client.second:
            _, call = self._steps.pop(0)
            self.done.append(self._client.second)
            call(self._field)

    def next(self, second: float) -> float:
        """When something is due next, at the latest in that second."""
        return min([second, *(at for at, _ in self._steps)])


def run_trial(field: Field, fault: Fault, name: str, command: str) -> Trial:
    """Start the peer in the director, load it, break something, and leave the field as it was."""
    field.restore()
    with ExitStack() as stack:
        field.manager = Manager() if fault.managed and name == "ns7" else None
        if field.manager is not None:
            stack.callback(field.manager.close)
        field.balancer = running = start_peer(field, name, command)
        stack.callback(field.lab.stop, running.process)
        stack.callback(field.restore)
        for server in field.names:
            field.network.line(server)  # its lateness counts from here
        prefix = field.network["client"].prefix
        more = ["--each"] if fault.each else []
        if field.tcp:
            more += TCP[fault.tcp]
        rate = TCP_RATES[fault.tcp] if field.tcp else fault.rate
        client = Client(field.lab, "client", running.target, field.queries, rate, fault.seconds, more, prefix)
        bad = None
        if fault.bad:
            bad = Client(
                field.lab, "client-bad", running.target, field.bad_queries, fault.bad, fault.seconds, (), prefix
            )
        clock = Clock(client, field, fault)
        samples: list[tuple[float, int, int]] = []
        while client.second < fault.seconds:
            clock.step()
            samples.append((client.second, field.asked("s1"), field.asked("s2")))
            client.wait_until(max(clock.next(len(samples) * STEP), client.second + LEAST_WAIT))
        result = client.result()
        if bad:
            bad.result()
        late = max(field.network.line(server).late for server in field.names)
        dead, log = field.dead(), running.process.log.read_text(errors="replace")
        if not running.process.alive():
            raise LabError(f"{name} has ended: {running.process.last_words()}")
    begin, end = clock.done
    return Trial(replace(fault, rate=rate), name, result, samples, begin, end, late, field.upgraded, dead, log)


def start_peer(field: Field, name: str, command: str) -> Running:
    """The balancer in the director's namespace, once it answers the client."""
    director = field.network["director"]
    listen = Address(director.address4, LISTEN_PORT)
    plan = peers.Plan(
        f"peer-{name}", listen, list(field.addresses.values()), 1, command, tuple(director.prefix), checks=True,
        manager=field.manager, tcp=field.tcp,
    )
    start = peers.KINDS[name].start
    if start is None:
        raise LabError(f"{name} is no balancer")
    running = start(field.lab, plan)
    with field.network["client"].entered():
        answers = wait_answer(listen, servers.PROBE, time.monotonic() + START_SECONDS, running.process.alive)
    if not answers:
        words = running.process.last_words()
        field.lab.stop(running.process)
        raise LabError(f"{name} did not answer: {words}")
    return running
