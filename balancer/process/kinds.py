"""The kinds of processes, one row each: how a child is called and where it starts.

Children are started by re-executing Python (`python -P -m balancer --role KIND`), never by fork after a loop exists.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import NamedTuple


class Kind(NamedTuple):
    """One process kind. entry: "module:function", called with the channel's descriptor in the child."""

    title: str
    entry: str


KINDS = {"worker": Kind("ns7 worker", "balancer.process.worker:main")}


def command(role: str, number: int, channel: int) -> list[str]:
    """The argument vector of a child; `channel` is a descriptor that it inherits."""
    return [sys.executable, "-P", "-m", "balancer", "--role", role, "--number", str(number), "--channel", str(channel)]


def run(role: str, channel: int) -> None:
    """Be that child."""
    module, function = KINDS[role].entry.split(":")
    getattr(import_module(module), function)(channel)
