"""Which news are due to whom reads them: groups, reminds, damps. Runs in the alert process.

Pure: `now` is CLOCK_MONOTONIC in seconds and an argument, as is `time`, in seconds since 1970. Knows neither mail nor
disk. What it holds can be exported as plain data, so that open alerts and acknowledgements survive a restart.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from balancer.component import AUDIT, BAD, GOOD, QUIET, Event

# What a piece of news is.
EVERY_WHAT = PROBLEM, RECOVERY, CHANGE, REMINDER, FLAPPING, CALM, TEST = (
    "problem", "recovery", "change", "reminder", "flapping", "calm", "test")

# A subject is fine or has an open alert. An event moves it so, and is told as:
#
#              bad state            good state           any other state
#   fine       open, problem        fine, (silence)      fine, change
#   open       open, problem *      fine, recovery       fine, recovery
#
#   * only when the state is another one (stale → down): the same again is no transition.
#
# Beside that a subject is calm or flapping. Calm → flapping: one more transition than `flap_changes` within
# `flap_period`; told once, an alert is open from then on and transitions are only counted. Flapping → calm: no
# transition for `flap_period`; told once, with the state it has now, in which the alert stays open or ends.
# An open alert that nobody acknowledged is told again each `repeat`.
_TOLD_AS = {(False, "bad"): PROBLEM, (False, "good"): None, (False, "other"): CHANGE,
            (True, "bad"): PROBLEM, (True, "good"): RECOVERY, (True, "other"): RECOVERY}

# Every director sees the servers; the active one speaks of them.
OF_SERVERS = frozenset({"server", "order", "zone", "master", "recursion"})
SETTLE = 600.0              # seconds after a start of ns7 in which what is still wrong is told again
MOST_ITEMS = 200            # in one notice; what is beyond is told as a number
MOST_SUBJECTS = 5000        # remembered at once; beyond, a problem is told but not followed


class Limits(NamedTuple):
    """The settings of [alerts] that matter here, in seconds and counts."""

    group: float
    repeat: float
    flap_changes: int
    flap_period: float


class Item(NamedTuple):
    """One piece of news. before and after are states; time and since (the trouble's begin) are seconds since 1970.

    id is the alert's, 0 for none. first is the number of the notice that told of the trouble, 0 for none. changes
    counts transitions that were not told one by one.
    """

    what: str
    kind: str
    subject: str
    before: str
    after: str
    reason: str
    time: float
    since: float
    id: int = 0
    first: int = 0
    changes: int = 0


class Notice(NamedTuple):
    """News that are told together. number is unique on this host and grows; more counts items left out."""

    number: int
    time: float
    items: tuple[Item, ...]
    more: int = 0

    @property
    def is_information(self) -> bool:
        """Nothing in it that would not be told again or that calls for anybody."""
        return all(item.what in (CHANGE, REMINDER) for item in self.items)

    def encode(self) -> bytes:
        return json.dumps({**self._asdict(), "items": [item._asdict() for item in self.items]}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Notice:
        """The inverse of `encode`; ValueError when it is not one."""
        try:
            raw = json.loads(data)
            notice = cls(**{**raw, "items": tuple(Item(**item) for item in raw["items"])})
        except (TypeError, KeyError, RecursionError) as error:
            raise ValueError("not a notice") from error
        if not notice.items or any(item.what not in EVERY_WHAT for item in notice.items):
            raise ValueError("not a notice that this version knows")
        return notice


@dataclass
class Alert:
    """A subject that is in trouble (open), or had a transition lately. told, last, recent, doubted: monotonic.

    doubted: when whoever told of it forgot that, and did not tell it again since.
    """

    kind: str
    subject: str
    state: str = ""
    since: float = 0.0
    reason: str = ""
    id: int = 0
    first: int = 0
    open: bool = False
    acked: bool = False
    flapping: bool = False
    changes: int = 0
    told: float = 0.0
    last: float = 0.0
    recent: list[float] = field(default_factory=list)
    doubted: float | None = None

    def shown(self) -> dict[str, Any]:
        """What a list of open alerts has of it."""
        return {name: getattr(self, name) for name in (
            "id", "kind", "subject", "state", "since", "reason", "acked", "flapping", "changes")}

    def again(self, what: str, time: float) -> Item:
        """News that no event brings."""
        return Item(what, self.kind, self.subject, "flapping" if self.flapping else self.state, self.state, self.reason,
                    time, self.since, self.id, self.first, self.changes)


def _sort(state: str) -> str:
    return "bad" if state in BAD else "good" if state in GOOD else "other"


class Book:
    """All open alerts and what is about to be told."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._alerts: dict[tuple[str, str], Alert] = {}
        self._held: dict[tuple[str, str], Event] = {}   # trouble that another director speaks of
        self._silent = False
        self.last_event = ""            # id of the newest event that was heard
        self._number = self._last_id = 0
        self._batch: list[Item] = []
        self._more = 0
        self._due = 0.0

    def hear(self, event: Event, now: float) -> None:
        """Take in one event; one that was heard before is passed over."""
        if event.id:
            if event.id <= self.last_event:
                return
            self.last_event = event.id
        if event.kind == AUDIT:
            return
        time = event.time if 0 <= event.time < 1e11 else 0.0
        kind, subject, before, after = event.kind[:40], event.subject[:200], event.before[:40], event.after[:40]
        reason, key = event.reason[:500], (kind, subject)
        if self._silent and kind in OF_SERVERS:
            self._hold(Event(time, kind, subject, before, after, reason))
            return
        alert = self._alerts.get(key) or Alert(kind, subject)
        if after in QUIET:
            return
        alert.doubted = None
        if alert.flapping:
            if after != alert.state:
                alert.state, alert.reason, alert.last = after, reason, now
                alert.changes += 1
            return
        what = _TOLD_AS[alert.open, _sort(after)]
        if what is None or (what == CHANGE and before == after):
            return
        if what == PROBLEM and alert.open and after == alert.state:
            alert.reason = reason
            return
        if key not in self._alerts and len(self._alerts) >= MOST_SUBJECTS:
            self._add(Item(CHANGE, kind, subject, before, after, reason, time, time), now)
            return
        alert.recent = [each for each in alert.recent if each + self.limits.flap_period > now]
        if len(alert.recent) >= self.limits.flap_changes:
            what, alert.flapping, alert.changes = FLAPPING, True, 0
        alert.recent.append(now)
        opens = what in (PROBLEM, FLAPPING)
        if not alert.open:
            self._last_id += opens
            alert.since, alert.id, alert.first = time, self._last_id if opens else 0, 0
        if what == RECOVERY:
            before = alert.state
        number = self._add(Item(what, *key, before, after, reason, time, alert.since, alert.id, alert.first), now)
        alert.open, alert.acked, alert.first = opens, False, alert.first or number
        alert.state, alert.reason, alert.told, alert.last = after, reason, now, now
        self._alerts[key] = alert

    def set_silent(self, silent: bool, now: float) -> None:
        """Whether another director speaks of the servers. What is wrong with them is passed on to it, or taken over."""
        if silent == self._silent:
            return
        self._silent = silent
        if silent:
            for key in [key for key in self._alerts if key[0] in OF_SERVERS]:
                alert = self._alerts.pop(key)
                if alert.doubted is None:
                    self._hold(Event(alert.since, *key, "", alert.state, alert.reason))
        else:
            held, self._held = self._held, {}
            for event in held.values():
                self.hear(event, now)

    def doubt(self, now: float) -> None:
        """ns7 was started anew: who told of a trouble does not know of it, and would not tell its end either."""
        self._held = {}
        for alert in self._alerts.values():
            if alert.open:
                alert.doubted = now

    def _hold(self, event: Event) -> None:
        key = event.kind, event.subject
        if event.after not in BAD:
            self._held.pop(key, None)
        elif key in self._held or len(self._held) < MOST_SUBJECTS:
            self._held[key] = event

    def tick(self, now: float, time: float) -> bool:
        """Add what time brings: reminders, and that a subject is calm again. Whether there was any."""
        before = len(self._batch) + self._more
        for key, alert in list(self._alerts.items()):
            if alert.doubted is not None and alert.doubted + SETTLE <= now:
                self.hear(Event(time, *key, alert.state, "gone", "not seen again since ns7 was started anew"), now)
            if alert.last + self.limits.flap_period > now:
                continue
            if alert.flapping:
                self._add(alert.again(CALM, time), now)
                alert.flapping, alert.open, alert.told = False, alert.state in BAD, now
                alert.changes, alert.recent = 0, []
            if not alert.open:
                del self._alerts[key]
        waiting = [alert for alert in self._alerts.values() if alert.open and not alert.acked]
        if any(alert.told + self.limits.repeat <= now for alert in waiting):
            # Those that would be due soon come along, so that many alerts do not mean many mails for ever.
            for alert in waiting:
                if alert.told + self.limits.repeat / 2 <= now:
                    self._add(alert.again(REMINDER, time), now)
                    alert.told = now
        return len(self._batch) + self._more > before

    def take(self, now: float, time: float, flush: bool = False) -> Notice | None:
        """What is to be told now; with `flush` also when more could still come along."""
        if not self._batch or (self._due > now and not flush):
            return None
        notice = Notice(self._number, time, tuple(self._batch), self._more)
        self._batch, self._more = [], 0
        return notice

    def wake(self) -> float | None:
        """When `tick` or `take` has something to do next; None: not before the next event."""
        times = [self._due] if self._batch else []
        for alert in self._alerts.values():
            if alert.doubted is not None:
                times.append(alert.doubted + SETTLE)
            if alert.flapping or not alert.open:
                times.append(alert.last + self.limits.flap_period)
            if alert.open and not alert.acked:
                times.append(alert.told + self.limits.repeat)
        return min(times, default=None)

    def ack(self, which: str) -> list[Alert]:
        """Remind no more of the open alerts with this id or subject ("all": of all); returns them."""
        found = [alert for alert in self.open()
                 if which in (str(alert.id), alert.subject, f"{alert.kind} {alert.subject}", "all")]
        for alert in found:
            alert.acked = True
        return found

    def open(self) -> list[Alert]:
        """The open alerts, oldest first."""
        return sorted((alert for alert in self._alerts.values() if alert.open), key=lambda alert: alert.since)

    def export(self, now: float) -> dict[str, Any]:
        """Everything as plain data; monotonic times as ages, so that another boot can read them."""
        alerts = [{**asdict(alert), "told": now - alert.told, "last": now - alert.last,
                   "doubted": None if alert.doubted is None else now - alert.doubted,
                   "recent": [now - each for each in alert.recent]} for alert in self._alerts.values()]
        return {"last_event": self.last_event, "last_id": self._last_id, "number": self._number, "more": self._more,
                "batch": [item._asdict() for item in self._batch], "alerts": alerts,
                "silent": self._silent, "held": [list(event) for event in self._held.values()]}

    @classmethod
    def load(cls, limits: Limits, data: Mapping[str, Any], now: float) -> Book:
        """What `export` gave; ValueError when it is not that. What was about to be told is due at once."""
        book = cls(limits)
        try:
            book.last_event, book._last_id = str(data["last_event"]), int(data["last_id"])
            book._number, book._more = int(data["number"]), int(data["more"])
            book._batch = [Item(**item) for item in data["batch"]]
            for plain in data["alerts"]:
                alert = Alert(**plain)
                alert.told, alert.last = now - alert.told, now - alert.last
                alert.recent = [now - age for age in alert.recent]
                alert.doubted = None if alert.doubted is None else now - alert.doubted
                book._alerts[alert.kind, alert.subject] = alert
            book._silent = bool(data.get("silent", False))
            for event in data.get("held", ()):
                book._hold(Event(*event))
        except (TypeError, KeyError) as error:
            raise ValueError("not the state of the alerts") from error
        book._due = now
        return book

    def _add(self, item: Item, now: float) -> int:
        """Put news into the batch that is about to be told; returns that batch's number."""
        if not self._batch:
            # Milliseconds since 1970 where that grows: unique even when the state was lost.
            self._number = max(self._number + 1, int(item.time * 1000))
            self._due = now + self.limits.group
        if len(self._batch) < MOST_ITEMS:
            self._batch.append(item)
        else:
            self._more += 1
        return self._number


def listing(alerts: Iterable[Alert], most_bytes: int) -> list[dict[str, Any]]:
    """The first of the alerts as plain data that needs at most so many bytes as JSON."""
    rows: list[dict[str, Any]] = []
    for alert in alerts:
        most_bytes -= len(json.dumps(alert.shown())) + 2
        if most_bytes < 0:
            break
        rows.append(alert.shown())
    return rows
