"""When the link is told where the addresses are (RFC 9568 §8.2.1). Pure; times are CLOCK_MONOTONIC seconds."""

from __future__ import annotations

BURST = 5                       # frames at once: one may be lost, and switches learn slowly
SECOND = 5.0                    # seconds until the burst is repeated
AFTER_CONFLICT = 1.0            # when the other director that thought it was active has surely removed the address


class Announcements:
    """Bursts after a takeover or a conflict, then one frame each `refresh` seconds; none while not `begin`ed."""

    def __init__(self, refresh: float) -> None:
        self.refresh = refresh
        self._due: list[tuple[float, int]] = []         # when, how many

    def begin(self, now: float) -> int:
        """The address is here, or was another's for a moment; how often to tell now."""
        self._due = [(now + AFTER_CONFLICT, BURST), (now + SECOND, BURST)]
        return BURST

    def end(self) -> None:
        """The address is elsewhere."""
        self._due = []

    @property
    def wake(self) -> float | None:
        """When `due` has something next."""
        return self._due[0][0] if self._due else None

    def due(self, now: float) -> int:
        """How often to tell now."""
        if not self._due or now < self._due[0][0]:
            return 0
        _, count = self._due.pop(0)
        self._due = self._due or [(now + self.refresh, 1)]
        return count
