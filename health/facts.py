"""What admin shows of health: made from what its process publishes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from balancer.table.verdicts import DOWN


def status(snapshot: Mapping[str, Any]) -> Mapping[str, Any]:
    """Its part of the status: serials, zones that are behind, the master, how many probes."""
    return {key: snapshot[key] for key in ("targets", "zones", "master", "serials", "behind", "probes", "changes")
            if key in snapshot}


def metrics(snapshot: Mapping[str, Any]) -> Iterable[Metric]:
    """Label values: configured zones and servers, protocols, four outcomes."""
    probes = CounterMetricFamily("ns7_health_probes_total", "Probes of servers, by how they ended.",
                                 labels=("proto", "outcome"))
    for key, count in snapshot.get("probes", {}).items():
        probes.add_metric(key.split(" "), count)
    yield probes
    yield CounterMetricFamily("ns7_health_changes_total", "Verdicts that changed.", value=snapshot.get("changes", 0))
    serials = GaugeMetricFamily("ns7_zone_serial", "Serial of a zone as the server has it.", labels=("zone", "server"))
    behind = GaugeMetricFamily("ns7_zone_behind_seconds", "How long the zone there has been older than the master's.",
                               labels=("zone", "server"))
    late = {(row["zone"], row["server"]): row["behind"] for row in snapshot.get("behind", ())}
    for row in snapshot.get("serials", ()):
        pair = row["zone"], row["server"]
        serials.add_metric(pair, row["serial"])
        late.setdefault(pair, 0.0)
    for pair, seconds in late.items():
        behind.add_metric(pair, seconds)
    yield from (serials, behind)
    master = snapshot.get("master", {}).get("verdict")
    if master is not None:
        yield GaugeMetricFamily("ns7_health_master_up", "Whether the master that serials are compared with answers.",
                                value=master != DOWN)
