"""The comparison: every peer in turn, several rounds, the same load toward the same servers, in one run.

`compare` starts all peers once, then loads one at a time; an idle peer costs next to nothing. Each round
begins with another peer, so a neighbour's habit does not always hit the same one.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks import goals, meter, ns7, peers, servers
from benchmarks.lab import Lab, LabError
from benchmarks.load import Load, Prober, percentile, run_dnsperf
from benchmarks.peers import Running
from benchmarks.report import Goal, Spread, at_least, at_most, median, ratios, show, spread, table, told

PACED = (10_000, 20_000)
SCALES = (2, 64, 256)
REFERENCE = "dnsdist"
AS_IT_IS, SWITCHED_OFF = "ns7", "ns7, retry off"


@dataclass(frozen=True)
class Options:
    """What the operator asked for."""

    seconds: float = 20.0
    rounds: int = 5
    peers: tuple[str, ...] = tuple(peers.KINDS)
    rates: tuple[int, ...] = (0,)
    servers: int = 2
    workers: int = 1
    ns7: str = ns7.COMMAND
    rows: tuple[str, ...] = ()  # of a case whose rows can be chosen; empty: all
    backend: str = "nsd"  # of "faults": what the servers run
    tcp: bool = False  # of "faults": clients ask over TCP
    first_kill: int = 0
    kills: int = 0


@dataclass(frozen=True)
class Round:
    """One measurement as taken. Seconds and bytes unless named otherwise; lost includes the prober's."""

    peer: str
    rate: int
    number: int
    load: Load
    lost: int
    cpu_us: float
    p50: float | None
    p99: float | None
    probes: int
    rss: int
    cpu: meter.Cpu
    doubt: str | None


@dataclass
class Run:
    """Everything one command measured, and what could not be."""

    rounds: list[Round] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    details: list[dict[str, object]] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def fail(self, text: str) -> None:
        if text not in self.failures:
            self.failures.append(text)
            print(f"FAILED: {text}", flush=True)

    def merge(self, other: Run) -> None:
        self.rounds += other.rounds
        self.goals += other.goals
        self.missing.update(other.missing)
        self.failures += other.failures
        self.details += other.details
        self.doubts += other.doubts


def rate_name(rate: int) -> str:
    return f"{rate:,} qps" if rate else "saturation"


def pace_doubt(rate: int, qps: float) -> str | None:
    """A paced run that fell behind measured another rate than it says."""
    return f"only {qps:,.0f} of {rate:,} qps" if rate and qps < 0.98 * rate else None


def measure(peer: Running, backends: servers.Servers, seconds: float, rate: int, number: int) -> Round:
    """Load one peer once: dnsperf and the prober together, CPU read around them."""
    if not peer.process.alive():
        raise LabError(f"{peer.name} has ended: {peer.process.last_words()}")
    before = meter.cpu_of_tree(peer.process.pid)
    with Prober(peer.target, peer.question) as prober:
        load = run_dnsperf(peer.target, backends.queries, seconds, rate)
    cpu = meter.cpu_between(before, meter.cpu_of_tree(peer.process.pid))
    return Round(
        peer=peer.name,
        rate=rate,
        number=number,
        load=load,
        lost=load.lost + prober.lost,
        cpu_us=cpu.clock / 1000 / (load.completed + len(prober.latencies)),
        p50=percentile(prober.latencies, 0.50),
        p99=percentile(prober.latencies, 0.99),
        probes=len(prober.latencies),
        rss=sum(meter.resident(pid) for pid in peer.workers()),
        cpu=cpu,
        doubt=cpu.doubt() or pace_doubt(rate, load.qps),
    )


def rotate(names: Sequence[str], by: int) -> list[str]:
    """The names, beginning with another one each round."""
    by %= max(1, len(names))
    return [*names[by:], *names[:by]]


def load_all(run: Run, running: dict[str, Running], backends: servers.Servers, options: Options) -> None:
    """All rounds of all rates over the started peers; a failed measurement is told and left out."""
    for name, peer in running.items():
        try:
            measure(peer, backends, min(1.0, options.seconds), 0, 0)  # sockets open, pages touched
        except LabError as exc:
            run.fail(f"{name}, warming up: {exc}")
    for number in range(options.rounds):
        for rate in options.rates:
            for name in rotate(list(running), number):
                what = f"round {number + 1}/{options.rounds}, {rate_name(rate)}, {name}"
                try:
                    done = measure(running[name], backends, options.seconds, rate, number)
                except LabError as exc:
                    run.fail(f"{what}: {exc}")
                    continue
                run.rounds.append(done)
                doubt = f"  DOUBT: {done.doubt}" if done.doubt else ""
                print(f"{what}: {done.load.qps:,.0f} qps, {done.cpu_us:.2f} µs{doubt}", flush=True)


def compare(lab: Lab, options: Options) -> Run:
    """Start the wanted peers toward `options.servers` servers and measure them."""
    run = Run()
    backends = servers.start(lab, addresses=options.servers)
    running: dict[str, Running] = {}
    for name in options.peers:
        if why := peers.missing(name, options.ns7):
            run.missing[name] = why
            print(f"MISSING: {why}", flush=True)
            continue
        try:
            running[name] = peers.start(lab, name, backends, options.servers, options.workers, options.ns7)
        except LabError as exc:
            run.missing[name] = str(exc)
            print(f"FAILED: {exc}", flush=True)
    load_all(run, running, backends, options)
    for note in [note for peer in running.values() for note in peer.notes]:
        print(f"note: {note}")
    lab.close()
    run.goals += comparison_goals(run.rounds, options)
    return run


def measure_variants(lab: Lab, options: Options, variants: Mapping[str, tuple[int, str]]) -> Run:
    """ns7 in several variants, interleaved: by name the number of servers and further lines of its service."""
    run = Run()
    if why := peers.missing("ns7", options.ns7):
        run.missing["ns7"] = why
        print(f"MISSING: {why}", flush=True)
        return run
    backends = servers.start(lab, addresses=max(count for count, _ in variants.values()))
    running: dict[str, Running] = {}
    for name, (count, extra) in variants.items():
        try:
            peer = peers.start(lab, "ns7", backends, count, options.workers, options.ns7, extra)
        except LabError as exc:
            run.fail(f"{name}: {exc}")
            continue
        peer.name = name
        running[name] = peer
    load_all(run, running, backends, options)
    lab.close()
    return run


def scale(lab: Lab, options: Options) -> Run:
    """ns7 with 2, 64 and 256 servers, each against its own figure with 2."""
    run = measure_variants(lab, options, {scale_name(count): (count, "") for count in SCALES})
    base = figures(run.rounds, scale_name(2), 0, "cpu_us")
    for count, bar in goals.SCALE_CPU.items():
        ratio = ratios(figures(run.rounds, scale_name(count), 0, "cpu_us"), base)
        row = f"{count} servers, saturation: CPU/query to 2 servers"
        run.goals.append(at_most(row, median(ratio), bar))
    return run


def rest(lab: Lab, options: Options) -> Run:
    """What second servers and suspicion cost while nothing fails: ns7 as it is, and with both switched off."""
    run = measure_variants(lab, options, {AS_IT_IS: (2, ""), SWITCHED_OFF: (2, 'retry = "off"\nsuspend = "off"\n')})
    ratio = ratios(figures(run.rounds, AS_IT_IS, 0, "cpu_us"), figures(run.rounds, SWITCHED_OFF, 0, "cpu_us"))
    run.goals.append(at_most("nothing fails: CPU/query to retry and suspend off", median(ratio), goals.REST_CPU))
    return run


def scale_name(count: int) -> str:
    return f"ns7, {count} servers"


def figures(rounds: Sequence[Round], peer: str, rate: int, name: str) -> dict[int, float]:
    """One figure of one peer by round; `qps` is dnsperf's."""
    chosen = [r for r in rounds if r.peer == peer and r.rate == rate]
    values = {r.number: r.load.qps if name == "qps" else getattr(r, name) for r in chosen}
    return {number: value for number, value in values.items() if value is not None}


def comparison_goals(rounds: Sequence[Round], options: Options) -> list[Goal]:
    """Rows of the goal list that this comparison speaks to."""
    found: list[Goal] = []
    for rate in options.rates:
        case = rate_name(rate)
        if (options.servers, options.workers) != (2, 1):
            case += f", {options.servers} servers, {options.workers} worker" + "s" * (options.workers > 1)
        own = figures(rounds, "ns7", rate, "cpu_us")
        cpu = ratios(own, figures(rounds, REFERENCE, rate, "cpu_us"))
        found.append(_cpu_goal(f"{case}: CPU/query to {REFERENCE}", median(cpu), rate))
        if not rate:
            qps = ratios(figures(rounds, "ns7", 0, "qps"), figures(rounds, REFERENCE, 0, "qps"))
            found.append(at_least(f"{case}: qps to {REFERENCE}", median(qps), goals.QPS_TO_DNSDIST))
        lost = figures(rounds, "ns7", rate, "lost")
        total = sum(lost.values()) if lost else None
        found.append(at_most(f"{case}: lost, all rounds", total, goals.LOST, digits=0))
    return found


def _cpu_goal(row: str, ratio: float | None, rate: int) -> Goal:
    bar = goals.PACED_CPU_TO_DNSDIST.get(rate) if rate else goals.CPU_TO_DNSDIST
    if bar is not None:
        return at_most(row, ratio, bar)
    return told(row, "not measured" if ratio is None else f"{ratio:.2f}")


def _milliseconds(values: dict[int, float]) -> Spread | None:
    return spread(value * 1000 for value in values.values())


def results_table(rounds: Sequence[Round], rate: int, reference: str, missing: dict[str, str]) -> str:
    """One table for one rate: medians (least and greatest) and ratios to the reference."""
    head = ["peer", "qps", "lost", "CPU µs/query", "p50 ms", "p99 ms", "RSS MiB"]
    head += [f"CPU/{reference}", f"qps/{reference}"]
    rows = []
    for peer in dict.fromkeys(r.peer for r in rounds if r.rate == rate):
        own = {
            name: figures(rounds, peer, rate, name) for name in ("qps", "lost", "cpu_us", "p50", "p99", "rss")
        }
        base = {name: figures(rounds, reference, rate, name) for name in ("qps", "cpu_us")}
        rows.append(
            [
                peer,
                show(spread(own["qps"].values()), 0),
                f"{sum(own['lost'].values()):,.0f}",
                show(spread(own["cpu_us"].values())),
                show(_milliseconds(own["p50"])),
                show(_milliseconds(own["p99"])),
                f"{statistics.median(own['rss'].values()) / 2**20:.1f}",
                show(ratios(own["cpu_us"], base["cpu_us"])),
                show(ratios(own["qps"], base["qps"])),
            ]
        )
    rows += [[peer, "missing", *[""] * (len(head) - 2)] for peer in missing]
    return f"{rate_name(rate)}\n{table(head, rows)}"
