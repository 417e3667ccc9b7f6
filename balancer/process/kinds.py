"""The kinds of processes, one row each: how a child is called, where it starts, what it keeps.

Children are started by re-executing Python (`python -P -m balancer --role KIND`), never by fork after a loop exists,
and only from the folder this very program was started from: what is installed since is another version (upgrade.py).
The core's kinds stand here; every component found by entry point adds its own row (`find`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

from balancer.component import Rights, components, resolve

# Symbolic links ("current") may lead elsewhere tomorrow. The last part of the interpreter's path must stay: a virtual
# environment's python is itself a link, and knows its environment by its own path.
FOLDER = str(Path(__file__).resolve().parent.parent.parent)
PYTHON = str(Path(sys.executable).parent.resolve() / Path(sys.executable).name)


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


def command(role: str) -> list[str]:
    """The argument vector of a child, up to the number of the descriptor of its channel."""
    return [PYTHON, "-P", "-m", "balancer", "--role", role, "--channel"]


def environment() -> dict[str, str]:
    """The environment of a child: it finds our folder before any other."""
    path = [FOLDER, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(path))}


def run(role: str, channel: int) -> None:
    """Be that child."""
    from balancer.process.journal import log
    from balancer.process.rights import begin

    kind = find(role)
    log.begin(role)
    begin(kind.title, kind.rights)
    resolve(kind.entry)(kind, channel)

