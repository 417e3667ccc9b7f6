"""Which server takes the next query: one file per rule, all behind `Scheduler.pick` (base.pxd)."""

from balancer.schedule.registry import SCHEDULERS, create

__all__ = ["SCHEDULERS", "create"]
