"""Whether this director can serve. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SILENT_AFTER_NS = 2_000_000_000     # a worker sweeps several times a second, and is replaced when it does not
SERVING = ("up", "degraded", "suspected")
RISE = 2                            # looks in a row that must be good before a director counts as fit again


def reason(heartbeats_ns: Sequence[int], services: Sequence[Mapping[str, Any]], strangers: Sequence[str],
           now_ns: int) -> str:
    """Why it cannot, "" when it can. heartbeats_ns: of the workers; services: as the table shows them."""
    if not any(now_ns - beat < SILENT_AFTER_NS for beat in heartbeats_ns):
        return "no worker is alive"
    if not any(server["state"] in SERVING for service in services for server in service["servers"]):
        return "no server can be reached"
    return f"{strangers[0]} is held by another program" if strangers else ""


class Fitness:
    """The looks in a row. At once unfit; fit again when it stays so."""

    def __init__(self) -> None:
        self.why = ""
        self._good = RISE

    def look(self, why: str) -> bool:
        """Whether the director is fit, given a new look."""
        self._good = 0 if why else self._good + 1
        if why or self._good >= RISE:
            self.why = why
        return not self.why
