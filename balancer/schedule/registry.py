"""Names of the schedulers: file = configuration value = label. The class is imported when a worker asks for it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from balancer.schedule.base import Scheduler

SCHEDULERS = {
    "wlc": "WeightedLeastConnection",
    "lc": "LeastConnection",
    "wrr": "WeightedRoundRobin",
    "rr": "RoundRobin",
    "sh": "SourceHashing",
}


def create(name: str) -> Scheduler:
    """A new scheduler by its configuration name; KeyError for an unknown one."""
    scheduler: Scheduler = getattr(import_module(f"balancer.schedule.{name}"), SCHEDULERS[name])()
    return scheduler
