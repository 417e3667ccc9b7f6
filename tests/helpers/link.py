"""A process's side of its channel without a supervisor behind it: the test is the supervisor."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from balancer.component import Event, Host, Service
from balancer.errors import ControlError


class MemoryLink:
    """A `Link` that keeps what it is told, and tells what the test says."""

    def __init__(self) -> None:
        self.emitted: list[Event] = []
        self.published: list[Mapping[str, Any]] = []
        self.served: dict[str, Callable[[Mapping[str, Any]], Any | Awaitable[Any]]] = {}
        self.handlers: dict[str, Callable[..., None]] = {}
        self.standing = ""

    def emit(self, event: Event) -> None:
        self.emitted.append(event)

    def publish(self, snapshot: Mapping[str, Any]) -> None:
        self.published.append(snapshot)

    def serve(self, verb: str, handler: Callable[[Mapping[str, Any]], Any | Awaitable[Any]],
              state: Callable[[], str] | None = None) -> None:
        self.served[verb] = handler

    async def request(self, kind: str, verb: str, arguments: Mapping[str, Any], timeout: float) -> Any:
        raise ControlError(f"{kind}.{verb}: nobody there")

    def on_config(self, handler: Callable[[Any, tuple[Service, ...]], None]) -> None:
        self.handlers["config"] = handler

    def declare(self, standing: str) -> None:
        self.standing = standing

    @property
    def orphaned(self) -> bool:
        return False

    def on_standing(self, handler: Callable[[str], None]) -> None:
        self.handlers["standing"] = handler

    def on_event(self, handler: Callable[[Event], None]) -> None:
        self.handlers["event"] = handler

    def on_snapshot(self, handler: Callable[[str, Mapping[str, Any]], None]) -> None:
        self.handlers["snapshot"] = handler

    def on_stop(self, handler: Callable[[], None]) -> None:
        self.handlers["stop"] = handler

    def on_hand_over(self, handler: Callable[[], Mapping[str, Any]]) -> None:
        self.handlers["hand over"] = handler

    @property
    def snapshot(self) -> Mapping[str, Any]:
        """What was published last, as JSON would bring it."""
        text = json.dumps(self.published[-1] if self.published else {})
        assert len(text) <= 1 << 20, "a snapshot has at most 1 MiB"
        result: Mapping[str, Any] = json.loads(text)
        return result

    async def ask(self, verb: str, **arguments: Any) -> Any:
        """The answer to a request, as JSON would bring it."""
        result = self.served[verb](arguments)
        if inspect.isawaitable(result):
            result = await result
        text = json.dumps(result)
        assert len(text) <= 65536, "an answer has at most 64 KiB"
        return json.loads(text)

    def tell(self, what: str, *arguments: Any) -> None:
        """Call the handler that was given for "config", "event", "snapshot", "stop" …"""
        self.handlers[what](*arguments)


def host(link: MemoryLink, config: Any, state: Path, *, node: str = "ns7c0", services: tuple[Service, ...] = (),
         snapshot: Mapping[str, Any] | None = None, log: Callable[[str], None] = print) -> Host:
    """What `main` is given; no table, no sockets."""
    no_table: Any = None
    return Host(config, node, services, no_table, link, snapshot or {}, {}, time.monotonic, log, str(state))
