"""The other directors as this one knows them from their status, and what is to be told of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

PATIENCE = 10.0                 # seconds that a standby may be away, or a configuration differ, before it is told
FRESH = 3.5                     # seconds that a status holds
LONG_AGO = float("-inf")


class News(NamedTuple):
    """Something to tell: the fields of an event."""

    kind: str
    subject: str
    before: str
    after: str
    reason: str


class Peers:
    """Statuses by node. Only the active director tells. `told` is a predecessor's: what it has told goes on."""

    def __init__(self, now: float, told: Mapping[str, Any]) -> None:
        self.facts: dict[str, dict[str, Any]] = {}
        self.heard_at: dict[str, float] = {}
        self._missing = bool(told.get("missing"))
        self._differs = set(told.get("differs", ()))
        # When there was last a standby, or we were none to have one; and when a configuration was last the same.
        self._good_at = LONG_AGO if self._missing else now
        self._same_at = dict.fromkeys(self._differs, LONG_AGO)

    def take(self, node: str, facts: dict[str, Any], now: float) -> None:
        """What a director has just said."""
        self.facts[node], self.heard_at[node] = facts, now

    def alive(self, now: float) -> list[str]:
        """The nodes whose status holds."""
        return sorted(node for node, at in self.heard_at.items() if now - at <= FRESH)

    def news(self, active: bool, fingerprint: str, now: float) -> list[News]:
        """What changed since it was asked last."""
        alive = self.alive(now)
        ready = [node for node in alive if self.facts[node].get("fit")]
        found = []
        if ready or not active:
            self._good_at = now
        missing = now - self._good_at >= PATIENCE
        if missing is not self._missing:
            self._missing = missing
            why = "; ".join(f"{node} cannot serve: {str(self.facts[node].get('why'))[:200]}" for node in alive)
            found.append(News("standby", "director", "present", "missing", why or "no other director is heard")
                         if missing else News("standby", "director", "missing", "present", ", ".join(ready)
                                              or "this director is the standby now"))
        for node in alive:
            if not active or self.facts[node].get("fingerprint") == fingerprint:
                self._same_at[node] = now
            differs = now - self._same_at.setdefault(node, now) >= PATIENCE
            if differs is not (node in self._differs):
                self._differs ^= {node}
                found.append(News("config", node, "same", "differs", "its file is another one than ours") if differs
                             else News("config", node, "differs", "same", "both have the same file"))
        return found

    @property
    def told(self) -> dict[str, Any]:
        """For a successor."""
        return {"missing": self._missing, "differs": sorted(self._differs)}

    def shown(self, now: float) -> dict[str, Mapping[str, Any]]:
        """For the status."""
        return {node: {**self.facts[node], "age": round(now - self.heard_at[node], 3)} for node in sorted(self.facts)}
