"""What the other processes published last, and how components want it shown. Runs in the admin process.

A component's record may name a `status` and a `metrics` function: they are imported here and given its snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from balancer.component import WARNING, Component, resolve


class Snapshots:
    """The newest snapshot of each process. A component whose function fails is told once, and left out."""

    def __init__(self, components: Iterable[Component], log: Callable[[str], None]) -> None:
        self.supervisor: Mapping[str, Any] = {}
        self._latest: dict[str, Mapping[str, Any]] = {}
        self._log = log
        self._failures: set[str] = set()
        records = tuple(components)
        self._status = {record.name: record.status for record in records}
        self._metrics = {record.name: record.metrics for record in records if record.metrics}

    def on_snapshot(self, name: str, snapshot: Mapping[str, Any]) -> None:
        """Keep it; the name "" is the supervisor's."""
        if name:
            self._latest[name] = snapshot
        else:
            self.supervisor = snapshot

    def latest(self, name: str) -> Mapping[str, Any]:
        """What a process published last; {} when it has not."""
        return self._latest.get(name, {})

    def status(self) -> dict[str, Any]:
        """By component, what its status function says; what it published, where it has none."""
        return self._shown(self._status, dict)

    def metrics(self) -> list[Any]:
        """The metric families of all components."""
        return [metric for metrics in self._shown(self._metrics, list).values() for metric in metrics]

    def _shown(self, functions: Mapping[str, str], whole: Callable[[Any], Any]) -> dict[str, Any]:
        shown = {}
        for name, function in functions.items():
            if not self._latest.get(name):          # it does not run here, or has published nothing yet
                continue
            try:
                shown[name] = whole(resolve(function)(self._latest[name]) if function else self._latest[name])
            except Exception as error:      # a component's bug must not take everybody's status and metrics away
                failure = f"{name}: {function} failed: {error!r}"
                if failure not in self._failures:
                    self._failures.add(failure)
                    self._log(f"{WARNING}{failure}")
        return shown
