"""A process's side of its channel without a supervisor behind it: the test is the supervisor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from balancer.component import Event, Service
from balancer.errors import ControlError


class MemoryLink:
    """A `Link` that keeps what it is told, and tells what the test says."""

    def __init__(self) -> None:
        self.emitted: list[Event] = []
        self.published: list[Mapping[str, Any]] = []
        self.served: dict[str, Callable[[Mapping[str, Any]], Any | Awaitable[Any]]] = {}
        self.handlers: dict[str, Callable[..., None]] = {}

    def emit(self, event: Event) -> None:
        self.emitted.append(event)

    def publish(self, snapshot: Mapping[str, Any]) -> None:
        self.published.append(snapshot)

    def serve(self, verb: str, handler: Callable[[Mapping[str, Any]], Any | Awaitable[Any]]) -> None:
        self.served[verb] = handler

    async def request(self, kind: str, verb: str, arguments: Mapping[str, Any], timeout: float) -> Any:
        raise ControlError(f"{kind}.{verb}: nobody there")

    def on_config(self, handler: Callable[[Any, tuple[Service, ...]], None]) -> None:
        self.handlers["config"] = handler

    def on_event(self, handler: Callable[[Event], None]) -> None:
        self.handlers["event"] = handler

    def on_snapshot(self, handler: Callable[[str, Mapping[str, Any]], None]) -> None:
        self.handlers["snapshot"] = handler

    def on_stop(self, handler: Callable[[], None]) -> None:
        self.handlers["stop"] = handler

    def tell(self, what: str, *arguments: Any) -> None:
        """Call the handler that was given for "config", "event", "snapshot" or "stop"."""
        self.handlers[what](*arguments)
