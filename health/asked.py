"""What the servers are asked: the questions of the section, and the zones of a file in rotation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import dns.rcode

from health import zones
from health.config import Health
from health.question import Expected, Question, alive, soa
from health.target import Target
from health.zones import Listing

LOOK = 10.0                 # seconds between two looks whether the file has changed
NOTHING = Listing([], (), None)

Failed = Callable[[str, str], None]     # file, what is wrong with it or ""


class Asked:
    """`on_file` hears how reading the file went, once a look."""

    def __init__(self, log: Callable[[str], None], on_file: Failed) -> None:
        self._log, self._on_file = log, on_file
        self._path: str | None = None
        self._listing = NOTHING
        self._looked = 0.0
        self._task: asyncio.Task[None] | None = None
        self._fixed: list[Question] = []
        self._of_file: dict[str, Question] = {}
        self.zones: frozenset[str] = frozenset()        # asked for in every probe

    @property
    def count(self) -> int:
        """Zones, those of the file too."""
        return len(self.zones | set(self._listing.zones))

    def configure(self, config: Health) -> None:
        """Obey this section."""
        self.zones = frozenset(config.zones)
        self._fixed = [soa(zone) for zone in config.zones] + [
            Question(check.name, check.type, Expected(int(dns.rcode.from_text(check.rcode)),
                                                      answers=frozenset(check.answers)))
            for check in config.checks]
        if config.zones_from != self._path:
            self._listing, self._of_file = NOTHING, {}
        self._path, self._looked = config.zones_from, 0.0

    def questions(self, target: Target) -> list[Question]:
        """Of one probe of this target."""
        questions = list(self._fixed)
        if self._listing.zones:
            target.turn = (target.turn + 1) % len(self._listing.zones)
            zone = self._listing.zones[target.turn]
            if zone not in self.zones:
                questions.append(self._of_file.setdefault(zone, soa(zone)))
        return questions or [alive()]

    def patience(self, zone: str, interval: float) -> float:
        """Seconds for which a serial of this zone is fresh: three probes that ask for it."""
        return 3 * interval * (1 if zone in self.zones else max(1, len(self._listing.zones)))

    def watches(self, zone: str) -> bool:
        """Whether the zone is asked for."""
        return zone in self.zones or zone in self._of_file

    def look(self, now: float) -> None:
        """Read the file again when it has changed; in a thread, for it may be long."""
        if self._path is not None and now - self._looked >= LOOK and (self._task is None or self._task.done()):
            self._looked = now
            self._task = asyncio.get_running_loop().create_task(self._read(self._path))

    async def _read(self, path: str) -> None:
        try:
            found = await asyncio.to_thread(_again, path, self._listing)
        except (OSError, ValueError) as error:
            self._on_file(path, str(error))
            return
        if path != self._path:
            return
        self._on_file(path, "")
        if found is not self._listing:
            self._listing, self._of_file = found, {}
            self._log(f"{path}: {len(found.zones)} zones")


def _again(path: str, known: Listing) -> Listing:
    """The file's zones; what is known when nothing has changed."""
    return known if known.files and zones.stamp(known.files) == known.stamp else zones.read(path)
