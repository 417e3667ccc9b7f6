"""What admin shows of the sync process: its part of the status, its metrics. Runs in the admin process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sync.plan import OUTCOMES, REASONS

# Name in the snapshot, metric, label, its values, text. Those that are known are there from the start.
COUNTERS = (
    ("pulls", "ns7_sync_pulls_total", "outcome", OUTCOMES, "Pulls by how they ended."),
    ("refreshes", "ns7_sync_refreshes_total", "outcome", ("ok", "refused"), "Refreshes by how they ended."),
    ("refused", "ns7_sync_messages_refused_total", "reason", REASONS, "NOTIFYs and questions that were not obeyed."),
)


def status(snapshot: Mapping[str, Any]) -> Mapping[str, Any]:
    """Its part of the status."""
    return {name: value for name, value in snapshot.items() if name != "summary"}


def metrics(snapshot: Mapping[str, Any]) -> Iterator[Metric]:
    """Its metrics. Label values are words of ours and the pullers' addresses."""
    if not snapshot:
        return
    counters = snapshot.get("counters", {})
    for group, name, label, known, text in COUNTERS:
        family = CounterMetricFamily(name, text, labels=(label,))
        told = dict.fromkeys(known, 0)
        told |= {key.partition("/")[2]: count for key, count in counters.items() if key.startswith(f"{group}/")}
        for value, count in sorted(told.items()):
            family.add_metric((value,), count)
        yield family
    yield CounterMetricFamily("ns7_sync_notifies_total", "NOTIFYs that were obeyed.", value=counters.get("notifies", 0))
    yield GaugeMetricFamily("ns7_sync_last_success_timestamp_seconds",
                            "When a refresh or a pull last ended well, in seconds since 1970; 0: never.",
                            value=snapshot.get("last_success", 0.0))
    yield GaugeMetricFamily("ns7_sync_generation", "The generation that is published or served here.",
                            value=snapshot.get("generation", 0))
    yield GaugeMetricFamily("ns7_sync_zones", "Zones of that generation.", value=snapshot.get("zones", 0))
    yield GaugeMetricFamily("ns7_sync_failed", "Whether the last pull failed.",
                            value=snapshot.get("state") in ("failed", "retrying"))
    lag = GaugeMetricFamily("ns7_sync_puller_lag_seconds", "How long a puller has been behind; 0: it is not.",
                            labels=("puller",))
    for each in snapshot.get("pullers", []):
        lag.add_metric((each["puller"],), each["behind"])
    yield lag
