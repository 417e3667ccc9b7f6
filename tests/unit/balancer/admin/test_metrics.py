"""Every metric equals the table, and is as Prometheus wants it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    StateSetMetricFamily,
)
from prometheus_client.parser import text_string_to_metric_families

from balancer import __version__
from balancer.admin import runner
from balancer.admin.metrics import STATES, Exposition, encode
from balancer.admin.snapshots import Snapshots
from balancer.component import Component
from balancer.table.table import (
    DROP_REASONS,
    IGNORE_REASONS,
    LATENCY_BOUNDS,
    RCODE_NAMES,
    TCP_CLOSE_REASONS,
    TCP_DROP_REASONS,
    Row,
)
from tests.helpers.need import require_program
from tests.helpers.table import Table
from tests.unit.balancer.admin.conftest import FACTS, Admin, Start

PAGE = Path(__file__).parents[4] / "docs" / "http.md"

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(text: bytes) -> Series:
    """Every series; AssertionError when one is told twice, which would spoil the whole scrape."""
    series: Series = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in series, key
            series[key] = sample.value
    return series


def value(series: Series, name: str, **labels: str) -> float:
    return series[name, tuple(sorted(labels.items()))]


async def scrape(admin: Admin) -> bytes:
    answer = await admin.get("/metrics")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return answer.body


async def test_metrics_equal_the_table(start: Start) -> None:
    """Read from the rows themselves, not through the view."""
    admin = await start({"one": ["a", "b"], "two": ["a", "c", "d"]}, workers=3)
    admin.table.fill(5)
    admin.table.config.set_weight(1, 2, 0, 0)
    series = read(await scrape(admin))
    rows = [Row(descriptor) for descriptor in admin.table.view_fds[1:]]
    seen = 0
    assert len(rows) == 4, "three workers, and those of the past"
    for number, (service, servers) in enumerate((("one", "ab"), ("two", "acd"))):
        told = [row.service(number) for row in rows]
        for name, key in (("ns7_queries_total", "queries"), ("ns7_answers_total", "answers"),
                          ("ns7_timeouts_total", "timeouts"), ("ns7_inflight", "inflight")):
            assert value(series, name, service=service, proto="udp") == sum(row[key] for row in told)
            assert value(series, name, service=service, proto="tcp") == sum(row["tcp"][key] for row in told)
        reasons = {*DROP_REASONS, *TCP_DROP_REASONS}
        for reason in reasons:
            assert value(series, "ns7_dropped_total", service=service, reason=reason) == sum(
                row["dropped"].get(reason, 0) + row["tcp"]["dropped"].get(reason, 0) for row in told)
        for name, key in (("connections_total", "connections"), ("connections", "open"),
                          ("transfers_total", "transfers")):
            assert value(series, f"ns7_tcp_{name}", service=service) == sum(row["tcp"][key] for row in told)
        for reason in TCP_CLOSE_REASONS:
            assert value(series, "ns7_tcp_closed_total", service=service, reason=reason) == sum(
                row["tcp"]["closed"][reason] for row in told)
        seen += 11 + len(reasons) + len(TCP_CLOSE_REASONS)
        for slot, server in enumerate(servers):
            both = [row.server(number, slot) for row in rows]
            names = {"service": service, "server": server}
            assert value(series, "ns7_server_up", **names) == 1
            assert value(series, "ns7_server_weight", **names) == (0 if server == "d" else 1)
            open_now = sum(row["tcp"]["open"] for row in both)
            assert value(series, "ns7_server_tcp_connections", **names) == open_now
            for state in STATES:
                here = "drained" if server == "d" else "up"
                assert value(series, "ns7_server_state", **names, state=state) == (state == here)
            for reason in IGNORE_REASONS:
                assert value(series, "ns7_server_ignored_total", **names, reason=reason) == sum(
                    row["ignored"][reason] + row["tcp"]["ignored"][reason] for row in both)
            seen += 3 + len(STATES) + len(IGNORE_REASONS)
            for proto, told in (("udp", both), ("tcp", [row["tcp"] for row in both])):
                for name, key in (("queries_total", "queries"), ("timeouts_total", "timeouts"),
                                  ("resends_total", "resends"),
                                  ("sent_bytes_total", "bytes_out"), ("received_bytes_total", "bytes_in"),
                                  ("refusals_total", "refusals" if proto == "udp" else "failures")):
                    assert value(series, f"ns7_server_{name}", **names, proto=proto) == sum(row[key] for row in told)
                # The table's number has both in it.
                inflight = sum(row["inflight"] for row in told)
                inflight -= sum(row["tcp"]["inflight"] for row in both) if proto == "udp" else 0
                assert value(series, "ns7_server_inflight", **names, proto=proto) == inflight
                for rcode in RCODE_NAMES:
                    assert value(series, "ns7_server_answers_total", **names, proto=proto, rcode=rcode) == sum(
                        row["answers"][rcode] for row in told)
                total = 0
                for index, bound in enumerate([*map(str, LATENCY_BOUNDS), "+Inf"]):
                    total += sum(row["latency"][index] for row in told)
                    assert value(series, "ns7_server_latency_seconds_bucket", **names, proto=proto, le=bound) == total
                assert value(series, "ns7_server_latency_seconds_count", **names, proto=proto) == total
                assert value(series, "ns7_server_latency_seconds_sum", **names, proto=proto) == pytest.approx(
                    sum(row["latency_sum_ns"] for row in told) / 1e9)
                seen += 7 + len(RCODE_NAMES) + len(LATENCY_BOUNDS) + 3
    assert value(series, "ns7_socket_drops_total", service="one", listen="[2001:db8::2]:53") == 7
    assert value(series, "ns7_worker_restarts_total") == 3
    assert value(series, "ns7_build_info", version=__version__) == 1
    for name, expected in (("workers", 2), ("ready", 1), ("live_changes", 1), ("alerts_open", 0),
                           ("alert_messages_waiting", 0)):
        assert value(series, f"ns7_{name}") == expected
    assert [value(series, "ns7_process_up", process=name) for name in ("admin", "alert")] == [1, 0]
    assert len(series) == seen + 10, "and nothing else"


async def test_open_alerts_and_who_could_not_be_told(start: Start) -> None:
    admin = await start()
    admin.link.tell("snapshot", "alert", {"open_total": 3, "queues": [{"waiting": 2}, {"waiting": 5}]})
    series = read(await scrape(admin))
    assert (value(series, "ns7_alerts_open"), value(series, "ns7_alert_messages_waiting")) == (3, 7)


def test_probe_latency_of_those_that_answered() -> None:
    with Table({"dns": ["a", "b"]}) as table:
        services = table.view.services()
    services[0]["servers"][0]["health"]["udp"]["latency"] = 0.002
    series = read(Exposition(lambda: services, Snapshots([], print)).text())
    name = "ns7_server_probe_latency_seconds"
    assert {key: found for key, found in series.items() if key[0] == name} == {
        (name, (("proto", "udp"), ("server", "a"), ("service", "dns"))): 0.002}


async def test_a_removed_server_does_not_double_a_series(start: Start) -> None:
    """A changed address is a removal and an addition of the same name."""
    admin = await start({"dns": ["a", "b"]})
    admin.table.config.remove_server(0, 0)
    admin.table.config.add_server(0, 2, "a", "192.0.2.99:53", 7)
    series = read(await scrape(admin))
    assert value(series, "ns7_server_weight", service="dns", server="a") == 7


async def test_before_the_supervisor_has_spoken(start: Start) -> None:
    assert b"ns7_queries_total" in await scrape(await start(facts={}))


def extra(snapshot: dict[str, float]) -> Iterator[Metric]:
    """A component's metrics function."""
    yield GaugeMetricFamily("ns7_extra", "Something else.", value=snapshot["number"])


async def test_metrics_of_components(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    records = {name: Component(name, "", "", metrics=f"{__name__}:extra") for name in ("here", "broken")}
    monkeypatch.setattr(runner, "components", lambda: records)
    admin = await start()
    admin.link.tell("snapshot", "here", {"number": 42})
    admin.link.tell("snapshot", "broken", {"other": 1})
    for _ in range(2):
        series = read(await scrape(admin))
        assert value(series, "ns7_extra") == 42
        assert value(series, "ns7_build_info", version=__version__) == 1
    (line,) = admin.lines
    assert "broken" in line


def text(services: int = 2, servers: int = 3) -> bytes:
    with Table({f"s{number}": [f"n{slot}" for slot in range(servers)] for number in range(services)}) as table:
        table.fill(9)
        snapshots = Snapshots([], print)
        snapshots.on_snapshot("", FACTS)
        views = table.view.services()
    for server in (server for view in views for server in view["servers"]):
        server["health"]["udp"]["latency"] = 0.002
    return Exposition(lambda: views, snapshots).text()


def test_encoded_as_the_library_does_it() -> None:
    """Any value, any label, any kind of metric that a component may have."""
    plain = CounterMetricFamily("ns7_x", 'A "text"\nwith \\ in it.', labels=("b", "a"))
    for number, value in enumerate((0, 1, 1.5, -2.25, 12345678.0, 1e-9, 2**60, float("inf"), float("nan"), True)):
        plain.add_metric((f'{number}"\n\\', "ü"), value)
    info = InfoMetricFamily("ns7_y", "Info.", value={"k": "v"})
    states = StateSetMetricFamily("ns7_z", "States.", {"on": True})
    latency = HistogramMetricFamily("ns7_w", "", labels=("a",))
    latency.add_metric(("1",), [("0.5", 1), ("+Inf", 3)], 1.75)
    ours = [plain, info, states, latency]
    registry = CollectorRegistry()
    registry.collect = lambda: iter(ours)       # type: ignore[method-assign]
    assert encode(ours) == generate_latest(registry)


def test_promtool_has_nothing_to_say() -> None:
    program = require_program("promtool", "prometheus")
    done = subprocess.run([program, "check", "metrics"], input=text(), capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_every_metric_is_documented() -> None:
    """Type and labels in a row of docs/http.md, and an example whose series look like ours."""
    page = PAGE.read_text()
    rows = re.findall(r"^\| `(ns7_\w+)` \| (\w+) \| (?:`([a-z,]+)` )?\|", page, re.MULTILINE)
    examples = page.rpartition("\n```\n")[0].rpartition("\n```\n")[2]
    told = {(sample.name, *sorted(sample.labels))
            for family in text_string_to_metric_families(examples) for sample in family.samples}
    real, names = set(), {}
    for family in text_string_to_metric_families(text().decode()):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = ",".join(sorted({label for sample in family.samples for label in sample.labels} - {"le"}))
        names[name] = (family.type, labels)
        real |= {(sample.name, *sorted(sample.labels)) for sample in family.samples}
    assert told == real
    assert {name: (kind, ",".join(sorted(labels.split(",")))) for name, kind, labels in rows} == names
