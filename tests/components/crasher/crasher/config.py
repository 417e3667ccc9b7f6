"""The section [crasher]."""

from balancer.config.model import Section


class Crasher(Section):
    """Where it shall fail: one of the names in runner.py."""

    where: str = ""
