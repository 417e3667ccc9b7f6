"""The targets by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Protocol, cast

# Targets of compiled code run against the debug build; those of Python code are guided by coverage.
COMPILED = ("wire", "framing", "admission", "datapath")
NAMES = (*COMPILED, "messages", "control", "config", "live", "adverts", "doctor", "manifest", "namedconf", "notify",
         "probe", "zones")


class Target(Protocol):
    """What a target module has."""

    __doc__: str
    SEEDS: Sequence[bytes]

    @staticmethod
    def opened() -> AbstractContextManager[Callable[[bytes], None]]: ...


def load(name: str) -> Target:
    return cast(Target, import_module(f"tests.fuzz.targets.{name}"))
