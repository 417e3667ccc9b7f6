"""The metrics of the table and of what processes publish, for Prometheus. Runs in the admin process, in a thread.

One line of `SERVICE`, `SERVER` or `HOST` is one metric. Label values are names of the configuration, protocols, rcodes,
states and reasons: their number is bounded. At rest queries = answers + dropped + timeouts + in flight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from balancer import __version__
from balancer.admin.snapshots import Snapshots

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

View = Mapping[str, Any]
Values = Mapping[tuple[str, ...], float]


class Line(NamedTuple):
    """One metric: `values(view)` gives a number for each combination of the label values."""

    name: str
    kind: str
    labels: tuple[str, ...]
    values: Callable[[View], Values]
    text: str


def _both(key: str, tcp_key: str = "") -> Callable[[View], Values]:
    return lambda view: {("udp",): view[key], ("tcp",): view["tcp"][tcp_key or key]}


def _reasons(view: View) -> Values:
    told: Counter[str] = Counter(view["dropped"])
    told.update(view["tcp"]["dropped"])
    return {(reason,): count for reason, count in told.items()}


def _up(view: View) -> Values:
    well = all(found["verdict"] not in ("down", "spared") for found in view["health"].values())
    return {(): well and view["state"] != "suspected"}


def _ignored(view: View) -> Values:
    return {(reason,): count + view["tcp"]["ignored"][reason] for reason, count in view["ignored"].items()}


def _probes(view: View) -> Values:
    return {(proto,): found["latency"] for proto, found in view["health"].items() if found["latency"] is not None}


def _drops(facts: View) -> Values:
    return {(address, service): count for service, told in facts.get("socket_drops", {}).items()
            for address, count in told.items()}


STATES = ("up", "suspected", "degraded", "down", "drained")
COUNTER, GAUGE = "counter", "gauge"

SERVICE = (
    Line("ns7_queries_total", COUNTER, ("proto",), _both("queries"), "Queries received from clients."),
    Line("ns7_answers_total", COUNTER, ("proto",), _both("answers"), "Answers sent to clients."),
    Line("ns7_timeouts_total", COUNTER, ("proto",), _both("timeouts"), "Queries that no server answered in time."),
    Line("ns7_dropped_total", COUNTER, ("reason",),
         _reasons,
         "Queries that got no answer for another reason."),
    Line("ns7_inflight", GAUGE, ("proto",), _both("inflight"), "Queries forwarded and not yet answered."),
    Line("ns7_tcp_connections_total", COUNTER, (), lambda view: {(): view["tcp"]["connections"]},
         "TCP connections accepted from clients."),
    Line("ns7_tcp_connections", GAUGE, (), lambda view: {(): view["tcp"]["open"]},
         "TCP connections of clients that are open."),
    Line("ns7_tcp_closed_total", COUNTER, ("reason",),
         lambda view: {(reason,): count for reason, count in view["tcp"]["closed"].items()},
         "TCP connections of clients that ended."),
    Line("ns7_tcp_transfers_total", COUNTER, (), lambda view: {(): view["tcp"]["transfers"]},
         "Zone transfers (AXFR, IXFR) sent to a server."),
)

SERVER = (
    Line("ns7_server_queries_total", COUNTER, ("proto",), _both("queries"), "Queries sent to the server."),
    Line("ns7_server_answers_total", COUNTER, ("proto", "rcode"),
         lambda view: {(proto, rcode): count for proto, told in (("udp", view), ("tcp", view["tcp"]))
                       for rcode, count in told["answers"].items()},
         "Answers received from the server."),
    Line("ns7_server_timeouts_total", COUNTER, ("proto",), _both("timeouts"),
         "Queries that the server did not answer in time."),
    Line("ns7_server_resends_total", COUNTER, ("proto",), _both("resends"),
         "Queries sent here because another server did not take them."),
    Line("ns7_server_refusals_total", COUNTER, ("proto",), _both("refusals", "failures"),
         "Queries refused by the server's host or network."),
    Line("ns7_server_ignored_total", COUNTER, ("reason",), _ignored,
         "Messages from the server's address that answered nothing in flight."),
    Line("ns7_server_sent_bytes_total", COUNTER, ("proto",), _both("bytes_out"),
         "Bytes of DNS messages sent to the server."),
    Line("ns7_server_received_bytes_total", COUNTER, ("proto",), _both("bytes_in"),
         "Bytes of answers received from the server."),
    Line("ns7_server_inflight", GAUGE, ("proto",),
         lambda view: {("udp",): view["inflight"] - view["tcp"]["inflight"], ("tcp",): view["tcp"]["inflight"]},
         "Queries the server has not answered yet."),
    Line("ns7_server_tcp_connections", GAUGE, (), lambda view: {(): view["tcp"]["open"]},
         "TCP connections to the server that are open, idle ones too."),
    Line("ns7_server_up", GAUGE, (), _up,
         "Whether the server counts as alive over UDP and TCP; a drained one may."),
    Line("ns7_server_weight", GAUGE, (), lambda view: {(): view["weight"]},
         "The server's share of the queries; 0 is drained."),
    Line("ns7_server_state", GAUGE, ("state",),
         lambda view: {(state,): view["state"] == state for state in STATES},
         "1 for the state that the server is in, else 0."),
    Line("ns7_server_probe_latency_seconds", GAUGE, ("proto",), _probes,
         "How long the newest probe that was answered took."),
)

# Of the supervisor's facts, with what the alert process published as "alert".
HOST = (
    Line("ns7_socket_drops_total", COUNTER, ("listen", "service"), _drops,
         "Datagrams that the kernel dropped at full listening buffers."),
    Line("ns7_worker_restarts_total", COUNTER, (), lambda facts: {(): facts.get("worker_restarts", 0)},
         "Worker processes replaced since the start."),
    Line("ns7_workers", GAUGE, (), lambda facts: {(): len(facts.get("workers", ()))}, "Worker processes."),
    Line("ns7_ready", GAUGE, (), lambda facts: {(): facts.get("ready", False)}, "Whether all workers are listening."),
    Line("ns7_process_up", GAUGE, ("process",),
         lambda facts: {(name,): process["running"] for name, process in facts.get("processes", {}).items()},
         "Whether a process beside the workers is at work."),
    Line("ns7_live_changes", GAUGE, (), lambda facts: {(): len(facts.get("live", ()))},
         "Live changes of operators that hold beside the file."),
    Line("ns7_alerts_open", GAUGE, (), lambda facts: {(): facts["alert"].get("open_total", 0)}, "Open alerts."),
    Line("ns7_alert_messages_waiting", GAUGE, (),
         lambda facts: {(): sum(queue["waiting"] for queue in facts["alert"].get("queues", ()))},
         "Messages that could not be told yet, all recipients together."),
    Line("ns7_build_info", GAUGE, ("version",), lambda facts: {(__version__,): 1}, "The running version; always 1."),
)

LATENCY = ("ns7_server_latency_seconds", "Time from sending a query to the server until its answer.")


class Exposition:
    """All metrics in Prometheus's text format, read anew at each call.

    With 256 servers they are 20,000 series: those of the table are written straight from its numbers.
    """

    def __init__(self, services: Callable[[], list[dict[str, Any]]], snapshots: Snapshots) -> None:
        self._services, self._snapshots = services, snapshots

    def text(self) -> bytes:
        services = [(_pairs(("service",), (service["name"],)), service) for service in self._services()]
        # A removed server's name may be another's already, and two series of one name spoil the whole scrape.
        servers = [(f"{_pairs(('server',), (server['name'],))},{named}", server) for named, service in services
                   for server in service["servers"] if server["state"] != "removed"]
        facts = {**self._snapshots.supervisor, "alert": self._snapshots.latest("alert")}
        written: list[str] = []
        for lines, views in ((SERVICE, services), (SERVER, servers), (HOST, [("", facts)])):
            for line in lines:
                written += _metric(line, views)
        written += _latencies(servers)
        return "".join(written).encode() + encode(self._snapshots.metrics())


def _metric(line: Line, views: Iterable[tuple[str, View]]) -> Iterator[str]:
    """named: the label pairs of the view. All stand in the order of their names, as the library has them."""
    yield _head(line.name, line.kind, line.text)
    first = not line.labels or line.labels[0] < "server"
    for named, view in views:
        for values, number in line.values(view).items():
            own = _pairs(line.labels, values)
            labels = ",".join(filter(None, (own, named) if first else (named, own)))
            yield f"{line.name}{{{labels}}} {_number(number)}\n" if labels else f"{line.name} {_number(number)}\n"


def _latencies(servers: Iterable[tuple[str, View]]) -> Iterator[str]:
    name, text = LATENCY
    yield _head(name, "histogram", text)
    for named, server in servers:
        for proto, told in (("udp", server["latency"]), ("tcp", server["tcp"]["latency"])):
            labels = f'proto="{proto}",{named}'
            for bound, count in told["buckets"].items():
                yield f'{name}_bucket{{le="{bound}",{labels}}} {_number(count)}\n'
            for part in ("count", "sum"):
                yield f"{name}_{part}{{{labels}}} {_number(told[part])}\n"


def _head(name: str, kind: str, text: str) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def _number(number: float) -> str:
    """As `generate_latest` writes it; most are small whole numbers, and quick."""
    if type(number) is int and 0 <= number < 1_000_000:
        return f"{number}.0"
    return str(floatToGoString(number))     # type: ignore[no-untyped-call]


@lru_cache(10_000)
def _pairs(labels: tuple[str, ...], values: tuple[str, ...]) -> str:
    return ",".join(f'{label}="{_escaped(value)}"' for label, value in zip(labels, values, strict=True))


@lru_cache(10_000)
def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def encode(metrics: Iterable[Metric]) -> bytes:
    """As `generate_latest` does it (text format, version 0.0.4), in a third of its time: names were checked already."""
    lines = []
    for metric in metrics:
        if metric.type not in ("counter", "gauge", "histogram"):
            lines.append(generate_latest(_One(metric)).decode())
            continue
        lines.append(_head(metric.name + "_total" * (metric.type == "counter"), metric.type, metric.documentation))
        for sample in metric.samples:
            labels = ",".join([f'{label}="{_escaped(value)}"' for label, value in sorted(sample.labels.items())])
            named = f"{sample.name}{{{labels}}}" if labels else sample.name
            lines.append(f"{named} {floatToGoString(sample.value)}\n")    # type: ignore[no-untyped-call]
    return "".join(lines).encode()


class _One(Collector):
    """A single metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric
