"""The configuration file: read once by the supervisor and by the commands, never by a worker at work.

The names below are imported when first used, so that `import balancer.config` costs nothing: no pydantic.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from balancer.config.loading import load, revise
    from balancer.config.model import Admin, Admit, Alerts, Config, Process, Server, Service
    from balancer.config.values import Endpoint
    from balancer.errors import ConfigError

__all__ = ["Admin", "Admit", "Alerts", "Config", "ConfigError", "Endpoint", "Process", "Server", "Service", "load",
           "revise"]

_HOME = {
    "load": "balancer.config.loading",
    "revise": "balancer.config.loading",
    "Endpoint": "balancer.config.values",
    "ConfigError": "balancer.errors",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME.get(name, "balancer.config.model")), name)
    globals()[name] = value
    return value
