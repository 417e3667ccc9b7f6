"""DNS over TCP beside the peers: persistent connections, one query per connection, transfers, idle clients, a killed
server. NSD behind all of them.

CPU is that of the balancer's whole process tree. The load generators are dnsperf for persistent connections and
`tcpload` for what dnsperf cannot do.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import goals, meter, ns7, servers, tcpload
from benchmarks.lab import Address, Lab, LabError, Process, free_port
from benchmarks.load import Prober, parse_dnsperf, percentile, run_dnsperf, wait_answer
from benchmarks.report import Goal, at_least, at_most, median, ratios, show, spread, table, told
from benchmarks.udp import Options, Run, rotate

PEERS = ("ns7", "dnsdist", "haproxy", "uvtcp")
CONNECTIONS = 20
CALLERS = 32
IDLE = 10_000
SETTLED = 3.0                           # seconds for spares and helpers of a fresh peer to be ready
BIG = "big.example"
BIG_RECORDS = 24_500                    # of 4 kB each: 100 MB in a transfer
TRANSFERS = 20
BESIDE = 5000                           # queries per second over UDP beside the transfers
MANY = "tcp_per_client = 100000\ntcp_connections_max = 100000\n"


@dataclass
class Peer:
    """A started balancer."""

    name: str
    target: Address
    process: Process
    balancer: ns7.Balancer | None = None


def dnsdist_config(listen: Address, behind: list[Address]) -> str:
    """Pipelining on both sides, one TCP worker, as ns7 has."""
    lines = ["setACL({'127.0.0.0/8'})", "setSecurityPollSuffix('')", "setServerPolicy(leastOutstanding)",
             "setMaxTCPClientThreads(1)", f"setLocal('{listen}', {{maxInFlight=1000}})"]
    lines += [f"newServer({{address='{one}', checkInterval=3600, maxInFlight=1000}}):setUp()" for one in behind]
    return "\n".join(lines) + "\n"


def haproxy_config(listen: Address, behind: list[Address]) -> str:
    """TCP mode: bytes, no DNS; one thread."""
    return "\n".join([
        "global", "  nbthread 1", "  maxconn 5000", "defaults", "  mode tcp", "  timeout connect 2s",
        "  timeout client 30s", "  timeout server 30s", "frontend in", f"  bind {listen}", "  default_backend out",
        "backend out", "  balance leastconn", *(f"  server s{n} {one}" for n, one in enumerate(behind)), ""])


def start(lab: Lab, name: str, behind: list[Address], command: str, extra: str = "") -> Peer:
    """One peer toward the servers; waits until it listens."""
    listen = Address("127.0.0.1", free_port())
    balancer = None
    if name == "ns7":
        service = ns7.Service("bench", listen, [(one, 1) for one in behind], extra=extra)
        balancer = ns7.start(lab, f"tcp-{name}", [service], 1, command)
        process = balancer.process
        if not wait_answer(listen, servers.PROBE, time.monotonic() + 20, process.alive):
            raise LabError(f"ns7 does not answer: {process.last_words()}")
        return Peer(name, listen, process, balancer)
    config = lab.folder / f"tcp-{name}.conf"
    if name == "dnsdist":
        config.write_text(dnsdist_config(listen, behind))
        argv = ["dnsdist", "--supervised", "--disable-syslog", "-C", str(config)]
    elif name == "haproxy":
        config.write_text(haproxy_config(listen, behind))
        argv = ["haproxy", "-db", "-f", str(config)]
    else:
        argv = [sys.executable, "-m", "benchmarks.uvtcp", "--listen", str(listen)]
        argv += [word for one in behind for word in ("--server", str(one))]
    process = lab.start(f"tcp-{name}", argv)
    deadline = time.monotonic() + 15
    while tcpload.run(listen, servers.PROBE, 0.01, 1, budget=1).answered == 0:
        if time.monotonic() > deadline or not process.alive():
            raise LabError(f"{name} does not answer over TCP: {process.last_words()}")
        time.sleep(0.1)
    return Peer(name, listen, process)


def start_all(lab: Lab, run: Run, names: tuple[str, ...], backends: servers.Servers, command: str) -> list[Peer]:
    found = []
    for name in names:
        try:
            found.append(start(lab, name, backends.addresses, command))
        except (LabError, FileNotFoundError) as exc:
            run.missing[name] = str(exc)
            print(f"MISSING: {name}: {exc}", flush=True)
    return found


def persistent(peer: Peer, backends: servers.Servers, seconds: float) -> tuple[float, float, int]:
    """(queries per second, CPU µs per query, lost): dnsperf over 20 connections, pipelined."""
    before = meter.cpu_of_tree(peer.process.pid)
    argv = ["dnsperf", "-m", "tcp", "-s", peer.target.host, "-p", str(peer.target.port), "-d", str(backends.queries),
            "-l", f"{seconds:g}", "-c", str(CONNECTIONS), "-T", "1", "-q", "1000"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 30)
    load = parse_dnsperf(done.stdout)
    cpu = meter.cpu_between(before, meter.cpu_of_tree(peer.process.pid))
    if not load.completed:
        raise LabError(f"{peer.name}: dnsperf got no answer")
    return load.qps, cpu.clock / 1000 / load.completed, load.lost


def one_each(peer: Peer, backends: servers.Servers, seconds: float) -> tuple[float, float, int]:
    """The same with a connection for each query."""
    before = meter.cpu_of_tree(peer.process.pid)
    tally = tcpload.run(peer.target, servers.PROBE, seconds, CALLERS, budget=1)
    cpu = meter.cpu_between(before, meter.cpu_of_tree(peer.process.pid))
    if not tally.answered:
        raise LabError(f"{peer.name}: no answer, {tally.why}")
    return tally.answered / tally.seconds, cpu.clock / 1000 / tally.answered, tally.lost


Measured = dict[str, dict[int, tuple[float, float, int]]]


def rounds(
    run: Run, peers: list[Peer], backends: servers.Servers, options: Options, what: str,
    measure: Callable[[Peer, servers.Servers, float], tuple[float, float, int]],
) -> Measured:
    """All peers in turn, `options.rounds` times; the table."""
    found: Measured = {peer.name: {} for peer in peers}
    for number in range(options.rounds):
        for peer in rotate_peers(peers, number):
            try:
                found[peer.name][number] = measure(peer, backends, options.seconds)
            except (LabError, subprocess.TimeoutExpired) as exc:
                run.fail(f"{what}, {peer.name}: {exc}")
                continue
            qps, cpu, lost = found[peer.name][number]
            print(f"{what}, round {number + 1}, {peer.name}: {qps:,.0f} qps, {cpu:.2f} µs, lost {lost}", flush=True)
    rows = [[name, show(spread(r[0] for r in values.values()), 0), show(spread(r[1] for r in values.values())),
             f"{sum(r[2] for r in values.values())}"] for name, values in found.items() if values]
    print(f"\n{what}\n" + table(["peer", "qps", "CPU µs/query", "lost"], rows) + "\n", flush=True)
    run.details.append({"case": what, "measured": {name: list(values.values()) for name, values in found.items()}})
    return found


def rotate_peers(peers: list[Peer], by: int) -> list[Peer]:
    names = {peer.name: peer for peer in peers}
    return [names[name] for name in rotate(list(names), by)]


def ratio(found: Measured, other: str, place: int) -> float | None:
    """ns7's figure to another's, by rounds, the median."""
    own, theirs = found.get("ns7", {}), found.get(other, {})
    return median(ratios({n: r[place] for n, r in own.items()}, {n: r[place] for n, r in theirs.items()}))


def tcp(lab: Lab, options: Options) -> Run:
    """Every row of the TCP goals."""
    run = Run()
    backends = servers.start(lab)
    peers = start_all(lab, run, PEERS, backends, options.ns7)
    if not any(peer.name == "ns7" for peer in peers):
        return run
    time.sleep(SETTLED)
    for one in peers:
        persistent(one, backends, 1.0)
    steady = rounds(run, peers, backends, options, "persistent, pipelined", persistent)
    single = rounds(run, peers, backends, options, "one query per connection", one_each)
    run.goals += [
        at_least("TCP persistent: qps to dnsdist", ratio(steady, "dnsdist", 0), goals.TCP_QPS_TO_DNSDIST),
        at_most("TCP persistent: CPU/query to haproxy", ratio(steady, "haproxy", 1), goals.TCP_CPU_TO_HAPROXY),
        at_most("TCP persistent: lost", sum(r[2] for r in steady["ns7"].values()), goals.LOST, digits=0),
        at_most("TCP one query each: CPU/query to dnsdist", ratio(single, "dnsdist", 1), goals.TCP_SINGLE_TO_DNSDIST),
        at_most("TCP one query each: lost", sum(r[2] for r in single["ns7"].values()), goals.LOST, digits=0),
    ]
    lab.close()
    for case in (idle, killed, big_transfers):
        try:
            case(lab, options, run)
        except LabError as exc:
            run.fail(f"{case.__name__}: {exc}")
        lab.close()
    return run


def idle(lab: Lab, options: Options, run: Run) -> None:
    """10,000 connections that asked once: memory, server connections, what UDP costs beside them."""
    backends = servers.start(lab)
    peer = start(lab, "ns7", backends.addresses, options.ns7, MANY + 'tcp_idle = "10m"\n')
    assert peer.balancer is not None
    time.sleep(SETTLED)
    worker = peer.balancer.workers()[0]

    def udp_cost() -> float:
        before = meter.cpu_of_tree(worker)
        load = run_dnsperf(peer.target, backends.queries, options.seconds, 10_000)
        return meter.cpu_between(before, meter.cpu_of_tree(worker)).clock / 1000 / load.completed

    udp_cost()
    costs: list[float] = []
    before, alone = meter.memory(worker).pss, udp_cost()
    with tcpload.idle_clients(peer.target, servers.PROBE, IDLE):
        after = meter.memory(worker).pss
        status = ns7.find_service(peer.balancer.status(), "bench")
        held = sum(server["tcp"]["open"] - server["tcp"]["idle"] for server in status["servers"])
        is_open = status["tcp"]["open"]
        costs.append(udp_cost())
    run.details.append({"case": "idle", "before": before, "after": after, "open": is_open, "udp": [alone, *costs]})
    run.goals += [
        at_least("TCP idle clients open", is_open, IDLE, digits=0),
        at_most("TCP idle clients: worker's memory each", (after - before) / IDLE, goals.TCP_IDLE_BYTES, " B", 0),
        at_most("TCP idle clients: server connections held", held, 0, digits=0),
        at_most("TCP idle clients: UDP CPU/query to without", costs[0] / alone, goals.TCP_IDLE_UDP),
    ]


def killed(lab: Lab, options: Options, run: Run) -> None:
    """50 connections with 4 queries each outstanding; one of two servers is killed."""
    backends = servers.start(lab)
    peer = start(lab, "ns7", backends.addresses, options.ns7)
    victim = backends.processes[0]

    def kill() -> None:
        for pid in meter.tree(victim.pid):
            os.kill(pid, signal.SIGKILL)

    tally = tcpload.run(peer.target, servers.PROBE, max(3.0, options.seconds), 50, window=4, schedule=[(1.0, kill)])
    assert peer.balancer is not None
    status = ns7.find_service(peer.balancer.status(), "bench")
    resends = sum(server["tcp"]["resends"] for server in status["servers"])
    print(f"server killed: {tally.answered:,} answered, {resends} re-sent, lost {tally.lost} {tally.why}", flush=True)
    run.details.append({"case": "killed", "answered": tally.answered, "resends": resends, "lost": tally.lost})
    run.goals.append(at_most("TCP server killed, 50 × 4: lost", tally.lost, goals.LOST, digits=0))    # noqa: RUF001


def big_zone(lab: Lab) -> None:
    """A zone of 100 MB, in both servers."""
    text = " ".join(f'"{"x" * 254}"' for _ in range(16))
    lines = [f"$ORIGIN {BIG}.", "$TTL 300", "@ SOA ns hostmaster 1 3600 900 604800 300", "@ NS ns", "ns A 127.0.0.1"]
    lines += [f"n{number} TXT {text}" for number in range(BIG_RECORDS)]
    (lab.folder / f"{BIG}.zone").write_text("\n".join(lines) + "\n")


def big_transfers(lab: Lab, options: Options, run: Run) -> None:
    """20 transfers of 100 MB at once, beside 5,000 queries per second over UDP; then the same without a balancer, for
    what the machine makes of it."""
    big_zone(lab)
    backends = servers.start(lab, zones=(servers.ZONE, BIG))
    peer = start(lab, "ns7", backends.addresses, options.ns7, MANY)
    size = tcpload.transfer(backends.addresses[0], BIG, 0)
    through, bare = (transfers_beside_udp(target, backends.queries, size, options.seconds)
                     for target in (peer.target, backends.addresses[0]))
    run.details += [{"case": "transfers", **asdict(through)}, {"case": "transfers without a balancer", **asdict(bare)}]
    print(f"transfers: {through.whole} of {TRANSFERS} whole ({size / 1e6:.0f} MB each) in {through.took:.1f} s; UDP "
          f"p99 {through.alone:.2f} ms alone, {through.beside:.2f} ms beside them; without a balancer {bare.alone:.2f} "
          f"and {bare.beside:.2f} ms", flush=True)
    run.goals += [
        Goal("transfers whole", f"{through.whole} of {TRANSFERS} × {size / 1e6:.0f} MB", "all",   # noqa: RUF001
             through.whole == TRANSFERS),
        told("transfers: rate", f"{TRANSFERS * size / through.took / 1e6:.0f} MB/s"),
        at_most("transfers: UDP lost beside them", through.lost, goals.LOST, digits=0),
        at_most("transfers: UDP p99 to alone", through.ratio, goals.TCP_TRANSFER_P99),
        told("transfers: the same without a balancer", "?" if bare.ratio is None else f"{bare.ratio:.2f}"),
    ]


@dataclass(frozen=True)
class Beside:
    """UDP alone, and beside transfers. Percentiles in ms, the median of several readings."""

    whole: int
    took: float
    alone: float
    beside: float
    lost: int

    @property
    def ratio(self) -> float | None:
        return self.beside / self.alone if self.alone else None


def transfers_beside_udp(target: Address, queries: Path, size: int, seconds: float) -> Beside:
    """`size` bytes are a whole transfer."""
    def udp(length: float) -> tuple[float, int]:
        with Prober(target, servers.PROBE) as prober:
            load = run_dnsperf(target, queries, length, BESIDE)
        return (percentile(prober.latencies, 0.99) or 0.0) * 1000, load.lost + prober.lost

    time.sleep(SETTLED)
    udp(1.0)
    alone = statistics.median(udp(seconds)[0] for _ in range(3))
    started = time.monotonic()
    readings = []
    with tcpload.transfers(target, BIG, size, TRANSFERS) as running:
        time.sleep(0.5)
        while running.poll() is None:
            readings.append(udp(2.0))
        got = tcpload.received(running)
    took = time.monotonic() - started
    beside = statistics.median(reading[0] for reading in readings)
    return Beside(sum(one == size for one in got), took, alone, beside, sum(reading[1] for reading in readings))
