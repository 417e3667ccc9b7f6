"""What changed between two generations, what of it is suspicious, and when to try again. Pure: `now` is an argument."""

from __future__ import annotations

from typing import NamedTuple

from sync.manifest import CONF, Manifest

Key = tuple[str, str]               # (view, name) of a zone
FEW_RECORDS = 10                    # a zone so small may lose any part of its records
RELOAD_EACH = 50                    # more changed zones than these: one `rndc reload` for all
TOLD = 5                            # zones named in one line
LEAST_BETWEEN = 1.0                 # seconds between two pulls that find nothing new, or that failed
FIRST_RETRY = 1.0                   # seconds; doubled up to `poll`

# How a pull ends, and why a message is not obeyed: words of the log and of the metrics.
OUTCOMES = ("new", "nothing new", "unreachable", "disk", "partial", "manifest", "old", "suspicious", "damaged", "zones",
            "named", "conf", "bad", "busy")
REASONS = ("malformed", "unsigned", "wrong key", "wrong signature", "wrong time", "replayed", "unexpected")


class Changes(NamedTuple):
    """Zones by what happened to them; conf: the configuration itself changed. fetch: paths with content we lack."""

    added: tuple[Key, ...]
    changed: tuple[Key, ...]
    removed: tuple[Key, ...]
    conf: bool
    fetch: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed or self.conf)

    @property
    def load(self) -> tuple[Key, ...]:
        """The zones that named must load."""
        return self.added + self.changed

    def words(self) -> str:
        """In one line, such as "2 changed (a.example, b.example), 1 removed (c.example)"."""
        told = [f"{len(keys)} {what} ({names(keys)})" for what, keys in (
            ("added", self.added), ("changed", self.changed), ("removed", self.removed)) if keys]
        return ", ".join(told) or ("configuration changed" if self.conf else "nothing changed")


def names(keys: tuple[Key, ...] | list[Key]) -> str:
    """The first of the zones by name."""
    told = [f"{name} (view {view})" if view else name for view, name in keys[:TOLD]]
    return ", ".join([*told, f"and {len(keys) - TOLD} more"] if len(keys) > TOLD else told)


def changes(old: Manifest, new: Manifest) -> Changes:
    """What leads from one generation to another. Content decides, never time or size: mtimes and seconds lie."""
    added, changed = [], []
    for key, zone in new.zones.items():
        before = old.zones.get(key)
        if before is None:
            added.append(key)
        elif old.files[before.path].sha256 != new.files[zone.path].sha256:
            changed.append(key)
    known = {(path, file.sha256) for path, file in old.files.items()}
    fetch = tuple(path for path, file in new.files.items() if (path, file.sha256) not in known)
    removed = tuple(key for key in old.zones if key not in new.zones)
    return Changes(tuple(added), tuple(changed), removed, CONF in fetch, fetch)


def is_before(serial: int, other: int) -> bool:
    """Whether a serial is less than another (RFC 1982 §3.2)."""
    return serial != other and (other - serial) & 0xFFFFFFFF < 1 << 31


def doubts(old: Manifest, new: Manifest, shrink_max: int) -> list[str]:
    """What looks like an accident in this step; empty when nothing does. shrink_max: percent that may vanish."""
    found = []
    gone = [key for key in old.zones if key not in new.zones]
    if _share(len(gone), len(old.zones)) > shrink_max:
        found.append(f"{len(gone)} of {len(old.zones)} zones would vanish ({names(gone)})")
    shrunk, backwards = [], []
    for key, zone in new.zones.items():
        before = old.zones.get(key)
        if before is None:
            continue
        # Where records cannot be counted, bytes stand for them.
        was, now = before.records, zone.records
        if was < 0 or now < 0:
            was, now = old.files[before.path].size, new.files[zone.path].size
        if was > FEW_RECORDS and _share(was - now, was) > shrink_max:
            shrunk.append((key, was, now))
        if is_before(zone.serial, before.serial):
            backwards.append(key)
    if shrunk:
        (_, was, now), keys = shrunk[0], [key for key, _, _ in shrunk]
        found.append(f"{names(keys)} would lose most of its records ({was} before, {now} now)")
    if backwards:
        found.append(f"the serial has gone backwards: {names(backwards)}")
    return found


def silent(old: Manifest, new: Manifest) -> list[Key]:
    """Zones whose content changed under the same serial: their secondaries will not notice."""
    return [key for key in changes(old, new).changed if old.zones[key].serial == new.zones[key].serial]


def _share(part: int, whole: int) -> float:
    return 100 * part / whole if whole and part > 0 else 0.0


class Pulls:
    """When the next pull is due. Times are monotonic seconds.

    A NOTIFY of something new is obeyed at once, others at most once a second; a failure is tried again after 1 s, 2 s,
    … up to `poll`, and what failed for good waits for the next poll.
    """

    def __init__(self, poll: float, now: float) -> None:
        self.poll = poll
        self.due = now
        self._last = now - LEAST_BETWEEN
        self._retry = FIRST_RETRY

    def notified(self, new: bool, now: float) -> None:
        """A NOTIFY came; new: of a generation that was not seen yet."""
        at = now if new else max(now, self._last + LEAST_BETWEEN)
        self.due = min(self.due, at)

    def started(self, now: float) -> None:
        """A pull begins."""
        self._last = now
        self.due = now + self.poll

    def ended(self, again: bool, now: float) -> None:
        """A pull ended; again: it failed for a reason that may pass."""
        if again:
            self.due = min(self.due, now + self._retry)
            self._retry = min(2 * self._retry, self.poll)
        else:
            self._retry = FIRST_RETRY


class Lag:
    """Since when a puller is behind the publisher. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.since: float | None = None
        self.told = ""

    def heard(self, behind: bool, now: float) -> None:
        """What was found at `now`."""
        if not behind:
            self.since = None
        elif self.since is None:
            self.since = now

    def change(self, max_lag: float, now: float) -> str:
        """"stale" or "current" when that is news, else "". It is at first: an alert of an earlier run may be open."""
        late = self.since is not None and now - self.since >= max_lag
        found = "stale" if late else "current" if self.since is None else self.told
        if found == self.told:
            return ""
        self.told = found
        return found

    def seconds(self, now: float) -> float:
        """How long it has been behind; 0 when it is not."""
        return 0.0 if self.since is None else now - self.since
