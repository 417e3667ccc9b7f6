"""The metrics of the table and of what processes publish, for Prometheus. Runs in the admin process, in a thread.

One line of `SERVICE` or `SERVER` is one metric. Label values are names of the configuration, protocols, rcodes and
reasons: their number is bounded. At rest queries = answers + dropped + timeouts + in flight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from balancer import __version__
from balancer.admin.snapshots import Snapshots

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

View = Mapping[str, Any]
Values = Mapping[tuple[str, ...], float]


class Line(NamedTuple):
    """One metric: `values(view)` gives a number for each combination of the label values."""

    name: str
    kind: type[CounterMetricFamily] | type[GaugeMetricFamily]
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


COUNTER, GAUGE = CounterMetricFamily, GaugeMetricFamily

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
    Line("ns7_server_inflight", GAUGE, ("proto",),
         lambda view: {("udp",): view["inflight"] - view["tcp"]["inflight"], ("tcp",): view["tcp"]["inflight"]},
         "Queries the server has not answered yet."),
    Line("ns7_server_tcp_connections", GAUGE, (), lambda view: {(): view["tcp"]["open"]},
         "TCP connections to the server that are open, idle ones too."),
    Line("ns7_server_up", GAUGE, (), _up,
         "Whether the server counts as alive over UDP and TCP; a drained one may."),
    Line("ns7_server_weight", GAUGE, (), lambda view: {(): view["weight"]},
         "The server's share of the queries; 0 is drained."),
)

LATENCY = ("ns7_server_latency_seconds", "Time from sending a query to the server until its answer.")


class TableCollector(Collector):
    """Reads everything anew at each `collect`."""

    def __init__(self, services: Callable[[], list[dict[str, Any]]], snapshots: Snapshots) -> None:
        self._services, self._snapshots = services, snapshots

    def collect(self) -> Iterator[Metric]:
        services = [((service["name"],), service) for service in self._services()]
        # A removed server's name may be another's already, and two series of one name spoil the whole scrape.
        servers = [((service["name"], server["name"]), server) for _, service in services
                   for server in service["servers"] if server["state"] != "removed"]
        yield from (_family(line, ("service",), services) for line in SERVICE)
        yield from (_family(line, ("service", "server"), servers) for line in SERVER)
        latency = HistogramMetricFamily(*LATENCY, labels=("service", "server", "proto"))
        for names, server in servers:
            for proto, told in (("udp", server["latency"]), ("tcp", server["tcp"]["latency"])):
                latency.add_metric((*names, proto), list(told["buckets"].items()), told["sum"])
        yield latency
        drops = CounterMetricFamily("ns7_socket_drops_total", "Datagrams that the kernel dropped at full listening "
                                    "buffers.", labels=("service", "listen"))
        for service, addresses in self._snapshots.supervisor.get("socket_drops", {}).items():
            for address, count in addresses.items():
                drops.add_metric((service, address), count)
        yield drops
        yield CounterMetricFamily("ns7_worker_restarts_total", "Worker processes replaced since the start.",
                                  value=self._snapshots.supervisor.get("worker_restarts", 0))
        build = GaugeMetricFamily("ns7_build_info", "The running version; always 1.", labels=("version",))
        build.add_metric((__version__,), 1)
        yield build
        yield from self._snapshots.metrics()

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self)


def _family(line: Line, labels: tuple[str, ...], views: Iterable[tuple[tuple[str, ...], View]]) -> Metric:
    family = line.kind(line.name, line.text, labels=(*labels, *line.labels))
    for names, view in views:
        for values, number in line.values(view).items():
            family.add_metric((*names, *values), number)
    return family
