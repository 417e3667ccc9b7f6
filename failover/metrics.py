"""What admin shows of failover, from its published snapshot. Runs in the admin process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from failover.advert import REASONS

PRIVATE = ("frames", "at", "told", "summary")      # for the successor of the process


def status(snapshot: Mapping[str, Any]) -> Mapping[str, Any]:
    """Its part of the status."""
    return {name: value for name, value in snapshot.items() if name not in PRIVATE}


def metrics(snapshot: Mapping[str, Any]) -> Iterable[Metric]:
    """`ns7_failover_…`."""
    if not snapshot:
        return
    counts = snapshot["counts"]
    for name, text, value in (
        ("active", "Whether this director holds the virtual addresses.", snapshot["active"]),
        ("fit", "Whether this director can serve.", not snapshot["why"]),
        ("priority", "VRRP priority as it is advertised.", snapshot["priority"]),
        ("directors_heard", "Other directors whose status is heard.", snapshot["heard"]),
    ):
        yield GaugeMetricFamily(f"ns7_failover_{name}", text, value=float(value))
    for name, text, key in (
        ("transitions", "Times this director became active or standby.", "transitions"),
        ("stalls", "Times this host stood still for too long.", "stalls"),
        ("announcements", "ARP and neighbour announcements sent.", "sent announcements"),
        ("addresses_lost", "Times a virtual address was removed by somebody else.", "addresses lost"),
        ("adverts_received", "Adverts of other directors that were obeyed.", "received adverts"),
    ):
        yield CounterMetricFamily(f"ns7_failover_{name}", text, value=counts.get(key, 0))
    sent = CounterMetricFamily("ns7_failover_adverts_sent", "Adverts sent, by outcome.", labels=["outcome"])
    for outcome in ("sent", "unsent"):
        sent.add_metric([outcome], counts.get(f"{outcome} adverts", 0) + counts.get(f"{outcome} farewells", 0))
    yield sent
    dropped = CounterMetricFamily("ns7_failover_adverts_dropped", "Adverts not obeyed, by reason.", labels=["reason"])
    for reason in REASONS:
        dropped.add_metric([reason], counts.get(f"dropped {reason}", 0))
    yield dropped
    refused = CounterMetricFamily("ns7_failover_statuses_dropped", "Statuses of directors not believed, by reason.",
                                  labels=["reason"])
    from failover.status import REASONS as UNBELIEVED
    for reason in UNBELIEVED:
        refused.add_metric([reason], counts.get(f"unbelieved {reason}", 0))
    yield refused
