"""The kinds of processes, one row each: how a child is called, where it starts, what it keeps.

Children are started by re-executing Python (`python -P -m balancer --role KIND`), never by fork after a loop exists.
The core's kinds stand here; every component found by entry point adds its own row (`find`).
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from balancer.component import Rights, components, resolve


class Kind(NamedTuple):
    """One process kind.

    entry: "module:function", called in the child with its kind and the channel's descriptor. main, config: what a
    hosted process runs, and the model of its section. asks: whether it may ask other processes. spare: whether a
    second one stands ready. needs: the setting of its section without which it has nothing to do.
    """

    title: str
    entry: str
    main: str = ""
    section: str = ""
    config: str = ""
    rights: Rights = Rights()
    spare: bool = False
    asks: bool = False
    needs: str = ""


HOSTED = "balancer.process.hosting:main"
CORE = {
    "worker": Kind("ns7 worker", "balancer.process.worker:main", spare=True),
    "admin": Kind("ns7 admin", HOSTED, "balancer.admin.runner:main", "admin", "balancer.config.model:Admin",
                  Rights(("NET_BIND_SERVICE",)), needs="listen"),
    "alert": Kind("ns7 alert", HOSTED, "balancer.alert.runner:main", "alerts", "balancer.config.model:Alerts"),
}


def find(role: str) -> Kind:
    """The row of a kind by its name."""
    if role in CORE:
        return CORE[role]
    record = components()[role]
    return Kind(f"ns7 {role}", HOSTED, record.main, role, record.config, record.rights, record.spare, asks=True)


def command(role: str, channel: int) -> list[str]:
    """The argument vector of a child; `channel` is a descriptor that it inherits."""
    return [sys.executable, "-P", "-m", "balancer", "--role", role, "--channel", str(channel)]


def run(role: str, channel: int) -> None:
    """Be that child."""
    from balancer.process.rights import begin

    kind = find(role)
    begin(kind.title, kind.rights)
    resolve(kind.entry)(kind, channel)

