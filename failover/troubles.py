"""What is wrong on this director now: told when it begins, when it becomes another trouble, and when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from balancer.component import Event


class Troubles:
    """By kind and subject. `before`: what a predecessor has `shown`, for it was told and its end will be, too."""

    def __init__(self, emit: Callable[[Event], None], before: Iterable[tuple[str, str, str]]) -> None:
        self._emit = emit
        self._now = {(kind, subject): state for kind, subject, state in before}

    def set(self, kind: str, subject: str, state: str, reason: str = "") -> None:
        """How it stands; state "": well."""
        before = self._now.get((kind, subject), "")
        if state == before:
            return
        if state:
            self._now[kind, subject] = state
        else:
            del self._now[kind, subject]
        self.tell(kind, subject, before or "ok", state or "ok", reason if state else "over")

    def tell(self, kind: str, subject: str, before: str, after: str, reason: str) -> None:
        """An event, for who keeps its own state."""
        self._emit(Event(time.time(), kind, subject, before, after, reason))

    def shown(self) -> list[tuple[str, str, str]]:
        """Kind, subject, state."""
        return [(*key, state) for key, state in sorted(self._now.items())]

    def __str__(self) -> str:
        return "; ".join(f"{kind} {subject} is {state}" for kind, subject, state in self.shown())
