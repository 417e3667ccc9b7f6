"""Makes the Grafana dashboard: `python deploy/dashboard.py > deploy/grafana-dashboard.json`.

A panel is one line of ROWS: title, what it is, where it lies, its queries. `$instance`, `$service` and `$server` are
chosen at the top of the dashboard; every query obeys those that its metrics have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

SOURCE = {"type": "prometheus", "uid": "${source}"}
HOST = 'instance=~"$instance"'
SERVICE = f'{HOST}, service=~"$service"'
SERVER = f'{SERVICE}, server=~"$server"'
EACH = "[$__rate_interval]"

Query = tuple[str, str]         # expression, legend

YES_NO = {"0": ("no", "red"), "1": ("yes", "green")}
UP_DOWN = {"0": ("down", "red"), "1": ("up", "green")}
ACTIVE = {"0": ("standby", "blue"), "1": ("active", "green")}


class Panel(NamedTuple):
    """One panel. unit: a Grafana unit. words: what a value is called, and its colour. steps: (from, colour)."""

    title: str
    text: str
    kind: str
    width: int
    queries: Sequence[Query]
    unit: str = "short"
    words: Mapping[str, tuple[str, str]] = {}
    steps: Sequence[tuple[float | None, str]] = ((None, "green"),)
    stacked: bool = False
    height: int = 8
    most: float | None = None
    named: bool = False         # the legend says it, not the value


def stat(title: str, text: str, query: str, unit: str = "short", *, legend: str = "", width: int = 3,
         words: Mapping[str, tuple[str, str]] | None = None,
         steps: Sequence[tuple[float | None, str]] = ((None, "green"),)) -> Panel:
    """One large number, or one per host."""
    return Panel(title, text, "stat", width, [(query, legend)], unit, words or {}, steps, height=4)


def graph(title: str, text: str, *queries: Query, unit: str = "short", width: int = 12, stacked: bool = False,
          most: float | None = None) -> Panel:
    """Lines over time."""
    return Panel(title, text, "timeseries", width, queries, unit, stacked=stacked, most=most)


def states(title: str, text: str, query: Query, words: Mapping[str, tuple[str, str]], width: int = 24) -> Panel:
    """Coloured bars over time, one per series."""
    return Panel(title, text, "state-timeline", width, [query], words=words)


def rate(metric: str, labels: str, by: str) -> str:
    """Per second, summed over everything but `by`."""
    return f"sum by ({by}) (rate({metric}{{{labels}}}{EACH}))"


def latency(part: float, by: str) -> str:
    """A quantile of the servers' latency."""
    buckets = rate("ns7_server_latency_seconds_bucket", SERVER, f"le, {by}" if by else "le")
    return f"histogram_quantile({part}, {buckets})"


# One number for a server's state, so that it is one bar in the picture.
STATES = {str(number): words for number, words in enumerate((
    ("down", "red"), ("drained", "blue"), ("degraded", "orange"), ("suspected", "yellow"), ("up", "green")), 1)}
STATE = "max by (instance, service, server) (" + " or ".join(
    f'ns7_server_state{{{SERVER}, state="{word}"}} * {number}' for number, (word, _) in STATES.items()) + ")"
BAD_ABOVE_0: Sequence[tuple[float | None, str]] = ((None, "green"), (1, "red"))
QUERIES, ANSWERS = rate("ns7_queries_total", SERVICE, "service"), rate("ns7_answers_total", SERVICE, "service")
ALL_QUERIES = f"sum(rate(ns7_queries_total{{{SERVICE}}}{EACH}))"

ROWS: Mapping[str, Sequence[Panel]] = {
    "Overview": (
        stat("Queries", "Received from clients, over UDP and TCP.", ALL_QUERIES, "reqps"),
        stat("Answered", "Answers per query. What is missing was dropped on purpose, timed out or is in flight: see "
             "Drops.", f"sum(rate(ns7_answers_total{{{SERVICE}}}{EACH})) / ({ALL_QUERIES} > 0)", "percentunit",
             steps=((None, "red"), (0.95, "orange"), (0.99, "green"))),
        stat("Latency p99", "From sending a query to a server until its answer.", latency(0.99, ""), "s",
             steps=((None, "green"), (0.05, "orange"), (0.25, "red"))),
        stat("Timeouts", "Queries that no server answered in time.",
             f"sum(rate(ns7_timeouts_total{{{SERVICE}}}{EACH}))", "reqps",
             steps=((None, "green"), (0.1, "orange"), (10, "red"))),
        stat("Servers down", "Servers that do not count as up. Behind two directors each is counted once.",
             f'count(max by (service, server) (ns7_server_up{{{SERVER}}}) == 0) or vector(0)', steps=BAD_ABOVE_0),
        stat("Address", "Who holds the virtual address.", f"ns7_failover_active{{{HOST}}}", legend="{{instance}}",
             words=ACTIVE),
        stat("Ready", "Whether all workers are listening.", f"ns7_ready{{{HOST}}}", legend="{{instance}}",
             words=YES_NO),
        stat("Open alerts", "What ns7 itself has told by mail and not yet taken back.",
             f"sum(ns7_alerts_open{{{HOST}}})", steps=BAD_ABOVE_0),
        graph("Queries by service", "Received from clients.",
              (rate("ns7_queries_total", SERVICE, "service, proto"), "{{service}} {{proto}}"), unit="reqps",
              stacked=True),
        graph("What became of them", "At rest: queries = answers + dropped + timeouts + in flight.",
              (ANSWERS, "{{service}} answered"),
              (rate("ns7_dropped_total", SERVICE, "service"), "{{service}} dropped"),
              (rate("ns7_timeouts_total", SERVICE, "service"), "{{service}} timed out"), unit="reqps"),
    ),
    "Servers": (
        states("State", "up: well. suspected: clients' queries speak against it. degraded: down over one protocol. "
               "drained: takes nothing new.", (STATE, "{{service}}/{{server}} on {{instance}}"), STATES),
        graph("Queries by server", "Sent to each server, queries for a second time among them.",
              (rate("ns7_server_queries_total", SERVER, "service, server"), "{{service}}/{{server}}"), unit="reqps",
              width=8),
        graph("Share", "Each server's part of its service's queries.",
              (f"{rate('ns7_server_queries_total', SERVER, 'service, server')} / on (service) group_left () "
               f"{rate('ns7_server_queries_total', SERVICE, 'service')}", "{{service}}/{{server}}"),
              unit="percentunit", width=8, stacked=True, most=1.0),
        graph("In flight", "Queries a server has not answered yet.",
              (f"sum by (service, server) (ns7_server_inflight{{{SERVER}}})", "{{service}}/{{server}}"), width=8),
        graph("Answers by rcode", "SERVFAIL and REFUSED from one server only: it has lost a zone.",
              (rate("ns7_server_answers_total", SERVER, "server, rcode"), "{{server}} {{rcode}}"), unit="reqps"),
        graph("Trouble", "Timeouts, refusals (nobody listens there), queries sent here because another server did not "
              "take them.",
              (rate("ns7_server_timeouts_total", SERVER, "server"), "{{server}} timeouts"),
              (rate("ns7_server_refusals_total", SERVER, "server"), "{{server}} refusals"),
              (rate("ns7_server_resends_total", SERVER, "server"), "{{server}} resends"), unit="reqps"),
        graph("Weight", "Share of the queries that is wanted; 0 is drained.",
              (f"max by (service, server) (ns7_server_weight{{{SERVER}}})", "{{service}}/{{server}}"), width=8),
        graph("Bytes", "DNS messages to and from the servers.",
              (rate("ns7_server_sent_bytes_total", SERVER, "server"), "{{server}} sent"),
              (rate("ns7_server_received_bytes_total", SERVER, "server"), "{{server}} received"), unit="Bps", width=8),
        graph("TCP connections", "Open to each server, and from clients.",
              (f"sum by (service, server) (ns7_server_tcp_connections{{{SERVER}}})", "to {{server}}"),
              (f"sum by (service) (ns7_tcp_connections{{{SERVICE}}})", "from clients of {{service}}"), width=8),
    ),
    "Latency": (
        graph("By server", "Time from sending a query until its answer.",
              (latency(0.5, "server"), "{{server}} p50"), (latency(0.99, "server"), "{{server}} p99"), unit="s"),
        graph("UDP and TCP", "The same by protocol.",
              (latency(0.5, "proto"), "{{proto}} p50"), (latency(0.9, "proto"), "{{proto}} p90"),
              (latency(0.99, "proto"), "{{proto}} p99"), unit="s"),
        Panel("How it spreads", "Answers by the time that they took.", "heatmap", 12,
              [(rate("ns7_server_latency_seconds_bucket", SERVER, "le"), "{{le}}")], "s"),
        graph("Mean", "Of each server, over both protocols.",
              (f"{rate('ns7_server_latency_seconds_sum', SERVER, 'server')} / "
               f"{rate('ns7_server_latency_seconds_count', SERVER, 'server')}", "{{server}}"), unit="s"),
    ),
    "Failover": (
        states("Who holds the address", "Two at once: they do not hear each other. Nobody: see the log of both.",
               (f"ns7_failover_active{{{HOST}}}", "{{instance}}"), ACTIVE, 12),
        states("Can serve", "A director without workers or reachable servers lowers its priority.",
               (f"ns7_failover_fit{{{HOST}}}", "{{instance}}"), YES_NO, 12),
        graph("Transitions", "Times that a director became active or standby.",
              (f"sum by (instance) (increase(ns7_failover_transitions_total{{{HOST}}}[$__interval]))", "{{instance}}"),
              width=6),
        graph("Priority", "As it is advertised: 1 means that it cannot serve.",
              (f"ns7_failover_priority{{{HOST}}}", "{{instance}}"), width=6),
        graph("Directors heard", "Others whose status is heard. 0: there is no standby.",
              (f"ns7_failover_directors_heard{{{HOST}}}", "{{instance}}"), width=6),
        graph("Trouble", "Adverts not obeyed, statuses not believed, addresses removed by others, standstills.",
              (f"sum by (instance, reason) (rate(ns7_failover_adverts_dropped_total{{{HOST}}}{EACH}))",
               "{{instance}} advert {{reason}}"),
              (f"sum by (instance, reason) (rate(ns7_failover_statuses_dropped_total{{{HOST}}}{EACH}))",
               "{{instance}} status {{reason}}"),
              (f"sum by (instance) (rate(ns7_failover_addresses_lost_total{{{HOST}}}{EACH}))",
               "{{instance}} address lost"),
              (f"sum by (instance) (rate(ns7_failover_stalls_total{{{HOST}}}{EACH}))", "{{instance}} stood still"),
              width=6),
    ),
    "Health": (
        states("Alive", "Over UDP and TCP, by probes and by clients' queries.",
               (f"min by (service, server) (ns7_server_up{{{SERVER}}})", "{{service}}/{{server}}"), UP_DOWN),
        graph("Probes by outcome", "good, wrong (an answer that must not be), refused, silent.",
              (f"sum by (proto, outcome) (rate(ns7_health_probes_total{{{HOST}}}{EACH}))", "{{proto}} {{outcome}}"),
              unit="ops", width=8, stacked=True),
        graph("Probe latency", "Of the newest probe that was answered.",
              (f"max by (server, proto) (ns7_server_probe_latency_seconds{{{SERVER}}})", "{{server}} {{proto}}"),
              unit="s", width=8),
        graph("Behind the master", "How long a server's zone has been older than the master's.",
              (f"max by (zone, server) (ns7_zone_behind_seconds{{{HOST}}}) > 0", "{{server}} {{zone}}"), unit="s",
              width=8),
        Panel("Zone serials", "As each server has them.", "table", 16,
              [(f"max by (zone, server) (ns7_zone_serial{{{HOST}}})", "")], "none"),
        stat("Master answers", "Whether the master that serials are compared with can be asked.",
             f"ns7_health_master_up{{{HOST}}}", legend="{{instance}}", words=UP_DOWN, width=4),
        stat("Verdicts changed", "In the last hour.", f"sum(increase(ns7_health_changes_total{{{HOST}}}[1h]))",
             width=4),
    ),
    "Sync": (
        stat("Last success", "Since a refresh or a pull ended well.",
             f"time() - (ns7_sync_last_success_timestamp_seconds{{{HOST}}} > 0)", "s", legend="{{instance}}", width=6),
        stat("Last pull", "Whether it failed.", f"ns7_sync_failed{{{HOST}}}", legend="{{instance}}", width=6,
             words={"0": ("well", "green"), "1": ("failed", "red")}),
        stat("Zones", "Of the generation that is published or served.", f"ns7_sync_zones{{{HOST}}}",
             legend="{{instance}}", width=6),
        stat("Generation", "Published, or served; the same everywhere when all is well.",
             f"ns7_sync_generation{{{HOST}}}", "none", legend="{{instance}}", width=6),
        graph("Pullers behind", "How long each has been behind the publisher.",
              (f"max by (puller) (ns7_sync_puller_lag_seconds{{{HOST}}})", "{{puller}}"), unit="s", width=8),
        graph("Pulls and refreshes", "By how they ended.",
              (f"sum by (instance, outcome) (rate(ns7_sync_pulls_total{{{HOST}}}{EACH}))",
               "{{instance}} pull {{outcome}}"),
              (f"sum by (instance, outcome) (rate(ns7_sync_refreshes_total{{{HOST}}}{EACH}))",
               "{{instance}} refresh {{outcome}}"), unit="ops", width=8),
        graph("Messages", "NOTIFYs that were obeyed, and messages that were not.",
              (f"sum by (instance) (rate(ns7_sync_notifies_total{{{HOST}}}{EACH}))", "{{instance}} obeyed"),
              (f"sum by (instance, reason) (rate(ns7_sync_messages_refused_total{{{HOST}}}{EACH}))",
               "{{instance}} {{reason}}"), unit="ops", width=8),
    ),
    "Drops": (
        graph("Dropped by reason", "docs/http.md says what each reason means.",
              (rate("ns7_dropped_total", SERVICE, "service, reason") + " > 0", "{{service}} {{reason}}"), unit="reqps"),
        graph("Full buffers", "Datagrams that the kernel dropped because workers were too slow.",
              (rate("ns7_socket_drops_total", SERVICE, "instance, listen"), "{{instance}} {{listen}}"), unit="pps"),
        graph("Not an answer", "Messages from a server's address that answer nothing in flight: late ones, or attempts "
              "to forge (unknown_id, wrong_question).",
              (rate("ns7_server_ignored_total", SERVER, "server, reason") + " > 0", "{{server}} {{reason}}"),
              unit="pps"),
        graph("TCP connections that ended", "docs/tcp.md says what each reason means.",
              (rate("ns7_tcp_closed_total", SERVICE, "service, reason") + " > 0", "{{service}} {{reason}}"),
              unit="ops"),
    ),
    "Hosts": (
        states("Processes", "Beside the workers.", (f"ns7_process_up{{{HOST}}}", "{{instance}} {{process}}"), UP_DOWN,
               12),
        graph("Worker restarts", "A worker that dies is replaced within milliseconds, and no query is lost.",
              (f"sum by (instance) (increase(ns7_worker_restarts_total{{{HOST}}}[$__interval]))", "{{instance}}"),
              width=6),
        graph("In flight", "Forwarded and not yet answered.",
              (f"sum by (service, proto) (ns7_inflight{{{SERVICE}}})", "{{service}} {{proto}}"), width=6),
        stat("Version", "What runs.", f"ns7_build_info{{{HOST}}}", legend="{{instance}} {{version}}",
             width=6)._replace(named=True),
        stat("Workers", "Processes that forward.", f"ns7_workers{{{HOST}}}", legend="{{instance}}", width=6),
        stat("Live changes", "What operators changed beside the file; `ns7 status` says who and when.",
             f"ns7_live_changes{{{HOST}}}", legend="{{instance}}", width=6, steps=((None, "green"), (1, "orange"))),
        stat("Mail that waits", "Messages that could not be told.", f"ns7_alert_messages_waiting{{{HOST}}}",
             legend="{{instance}}", width=6, steps=BAD_ABOVE_0),
    ),
}
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "stat": {"colorMode": "background", "graphMode": "area", "justifyMode": "auto", "textMode": "auto",
             "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}},
    "timeseries": {"legend": {"displayMode": "table", "placement": "bottom", "showLegend": True,
                              "calcs": ["lastNotNull", "max"]},
                   "tooltip": {"mode": "multi", "sort": "desc"}},
    "state-timeline": {"mergeValues": True, "showValue": "auto", "rowHeight": 0.8,
                       "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False}},
    "heatmap": {"calculate": False, "cellGap": 1, "yAxis": {"unit": "s"},
                "color": {"mode": "scheme", "scheme": "Blues"}},
    "table": {"showHeader": True, "sortBy": [{"displayName": "zone", "desc": False}]},
}


def shown(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    """A panel as Grafana wants it."""
    targets = [{"datasource": SOURCE, "expr": expression, "legendFormat": legend or "__auto", "refId": chr(65 + place),
                **({"format": "heatmap"} if panel.kind == "heatmap" else {}),
                **({"format": "table", "instant": True} if panel.kind == "table" else {})}
               for place, (expression, legend) in enumerate(panel.queries)]
    custom: dict[str, Any] = {}
    if panel.kind == "timeseries":
        custom = {"fillOpacity": 20 if panel.stacked else 5, "lineWidth": 1, "showPoints": "never",
                  "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"}}
    mappings = [{"type": "value", "options": {value: {"text": word, "color": colour, "index": place}}}
                for place, (value, (word, colour)) in enumerate(panel.words.items())]
    steps = [{"value": value, "color": colour} for value, colour in panel.steps]
    defaults = {"unit": panel.unit, "min": 0, "custom": custom, "mappings": mappings,
                "thresholds": {"mode": "absolute", "steps": steps}, **({"max": panel.most} if panel.most else {})}
    return {"id": number, "type": panel.kind, "title": panel.title, "description": panel.text, "datasource": SOURCE,
            "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height}, "targets": targets,
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": {**OPTIONS[panel.kind], **({"textMode": "name"} if panel.named else {})}}


def panels() -> Iterator[dict[str, Any]]:
    """All of them in rows, one beside the other until a line of 24 columns is full."""
    number, y = 0, 0
    for title, row in ROWS.items():
        number += 1
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [],
               "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}}
        x, y, height = 0, y + 1, 0
        for panel in row:
            if x + panel.width > 24:
                x, y, height = 0, y + height, 0
            number += 1
            yield shown(panel, number, x, y)
            x, height = x + panel.width, max(height, panel.height)
        y += height


def chosen(name: str, query: str) -> dict[str, Any]:
    """A choice at the top: all, some or one of the values of a label."""
    return {"name": name, "label": name, "type": "query", "datasource": SOURCE, "definition": query,
            "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "multi": True, "includeAll": True,
            "allValue": ".*", "current": {"text": "All", "value": "$__all"}}


def dashboard() -> dict[str, Any]:
    """The whole of it."""
    return {
        "title": "ns7", "uid": "ns7", "tags": ["dns", "ns7"], "description": "A DNS load balancer and its servers.",
        "schemaVersion": 39, "version": 1, "editable": True, "graphTooltip": 1, "refresh": "10s", "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [
            {"name": "source", "label": "source", "type": "datasource", "query": "prometheus"},
            chosen("instance", "label_values(ns7_build_info, instance)"),
            chosen("service", f"label_values(ns7_queries_total{{{HOST}}}, service)"),
            chosen("server", f"label_values(ns7_server_up{{{SERVICE}}}, server)"),
        ]},
        "annotations": {"list": [
            {"name": "takeover", "datasource": SOURCE, "enable": True, "iconColor": "orange", "titleFormat": "takeover",
             "expr": f"changes(ns7_failover_active{{{HOST}}}[1m]) > 0", "step": "30s"}]},
        "panels": list(panels()),
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1))
