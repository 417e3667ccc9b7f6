"""Failover: keeps the virtual address on a living director. A component of its own process."""

from __future__ import annotations

from typing import Any

from balancer.component import Component, Rights


def _floating(section: Any) -> tuple[str, ...]:
    return tuple(section.addresses)


def _directors(section: Any) -> tuple[str, ...]:
    return tuple(section.peers)


COMPONENT = Component(
    "failover", config="failover.config:Failover", main="failover.runner:main",
    rights=Rights(("NET_ADMIN", "NET_RAW")), spare=True, floating=_floating, directors=_directors,
    commands="failover.commands:commands", status="failover.metrics:status", metrics="failover.metrics:metrics",
    doctor="failover.doctor:CHECKS")
