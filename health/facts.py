"""What admin shows of health: made from what its process publishes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


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
    for row in snapshot.get("serials", ()):
        serials.add_metric((row["zone"], row["server"]), row["serial"])
    yield serials
