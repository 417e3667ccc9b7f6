"""Whether a server's copy of a zone is as new as the master's. Pure: `now` is an argument, in seconds.

    current ── older serial than the master's ─▶ behind ── for `stale_after` ─▶ stale
       ▲────────────── as new as the master's ─────┴──────────────────────────────┘

A master that cannot be asked proves nothing: what was known stays as it is, and the time does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from health.serial import is_behind

CURRENT, BEHIND, STALE = "current", "behind", "stale"


class Move(NamedTuple):
    """A copy's state has changed. lasted: seconds that it had been behind, 0 when it begins."""

    before: str
    after: str
    served: int
    master: int
    lasted: float


@dataclass
class Copy:
    """One zone on one server."""

    state: str = CURRENT
    behind: float = 0.0             # seconds that it was seen to be behind
    seen: float | None = None       # when it was last compared; None: the master could not be asked meanwhile

    def compare(self, served: int, master: int | None, stale_after: float, now: float) -> Move | None:
        """The serial that was served now, beside the master's; None: it cannot be asked."""
        if master is None:
            self.seen = None
            return None
        before = self.state
        lasted = self.behind
        if not is_behind(served, master):
            self.state, self.behind, self.seen = CURRENT, 0.0, now
        else:
            if self.state != CURRENT and self.seen is not None:
                self.behind += now - self.seen
            self.seen = now
            self.state = STALE if self.behind >= stale_after else BEHIND
            lasted = self.behind
        return None if self.state == before else Move(before, self.state, served, master, lasted)
