"""What operators changed while ns7 runs, and how it lies over the configuration. Pure: no file, no socket, no clock.

A `Change` is one operator's word about one server: that it is there or is gone ("server"), its "weight", its "state".
It holds, whatever the file says, until somebody lifts it. There is one change per key (service, server, what), the
newest; of two directors' changes the newer one counts everywhere (last writer wins, by time, then node), so merging
gives the same result in any order. What is lifted stays as a mark for that reason.

A change that was written into the file as well is `saved`: a host forgets it (`settled`) once its own file has agreed
with it, and obeys the file from then on. A director whose copy of the file is older goes on obeying the change.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

FORMAT = 1
MOST = 1000                 # changes kept; beyond, the oldest that say nothing any more go first
MOST_NAME = 63
KINDS = ("server", "weight", "state")       # in the order in which they are laid over the document
DEFAULTS = {"weight": 1, "state": "auto"}

Key = tuple[str, str, str]
Document = dict[str, Any]


class Change(NamedTuple):
    """One word of an operator. value: of "server" its table as it would stand in the file, None when it is removed.

    user: who; time: when, seconds since 1970; node: on which host. lifted: it says nothing any more. saved: it was
    written into the file.
    """

    service: str
    server: str
    what: str
    value: Any
    user: str
    time: float
    node: str
    lifted: bool = False
    saved: bool = False

    @property
    def key(self) -> Key:
        return self.service, self.server, self.what

    @property
    def order(self) -> tuple[float, str, str]:
        """The greater one counts."""
        return self.time, self.node, json.dumps(self, sort_keys=True)

    def told(self) -> str:
        """What it says, for people."""
        if self.what != "server":
            return f"{self.what} {self.value}"
        return "removed" if self.value is None else f"added at {self.value['address']}"


class Live:
    """All changes; a value that is never altered. settled: (key, time) of saved ones that this host's file has."""

    def __init__(self, changes: Iterable[Change] = (), settled: Iterable[tuple[Key, float]] = ()) -> None:
        self.changes = {change.key: change for change in sorted(changes, key=lambda change: change.order)}
        if len(self.changes) > MOST:
            idle = sorted((change for change in self.changes.values() if change.lifted or change.saved),
                          key=lambda change: change.order)
            for change in idle[:len(self.changes) - MOST]:
                del self.changes[change.key]
        self.settled = frozenset((key, time) for key, time in settled
                                 if key in self.changes and self.changes[key].time == time)

    def active(self) -> list[Change]:
        """Those that count on this host, in the order in which they are laid over the document."""
        found = [change for change in self.changes.values()
                 if not change.lifted and (change.key, change.time) not in self.settled]
        return sorted(found, key=lambda change: (change.service, change.server, KINDS.index(change.what)))

    def of(self, service: str, server: str) -> list[Change]:
        """The active ones of one server."""
        return [change for change in self.active() if (change.service, change.server) == (service, server)]

    def time(self, now: float) -> float:
        """A time for a new change: now, but later than all that is known, so that it counts whatever clocks say."""
        return max([now, *(change.time + 1e-6 for change in self.changes.values())])

    def put(self, *changes: Change) -> Live:
        """With these in place of what was known of their keys."""
        return Live([*self.changes.values(), *changes], self.settled)

    def lift(self, keys: Iterable[Key], user: str, time: float, node: str) -> Live:
        """Without these."""
        return self.put(*(self.changes[key]._replace(lifted=True, saved=False, value=None, user=user, time=time,
                                                     node=node) for key in keys if key in self.changes))

    def save(self, keys: Iterable[Key], time: float) -> Live:
        """These were written into the file; whose they are stays as it is."""
        return self.put(*(self.changes[key]._replace(saved=True, time=time) for key in keys))

    def merge(self, other: Live) -> Live:
        """The newer change of each key."""
        return Live([*self.changes.values(), *other.changes.values()], self.settled)

    def settle(self, document: Document) -> Live:
        """Knowing this host's file: a saved change that it agrees with counts no more."""
        return Live(self.changes.values(), [*self.settled, *(
            (change.key, change.time) for change in self.active() if change.saved and agrees(document, change))])

    # As plain data

    @property
    def version(self) -> tuple[float, str]:
        """Time and node of the newest change."""
        return max(((change.time, change.node) for change in self.changes.values()), default=(0.0, ""))

    def export(self) -> dict[str, Any]:
        """All of it but what concerns this host only. Two hosts have the same changes when `digest` is the same."""
        rows = [list(change) for _, change in sorted(self.changes.items())]
        return {"format": FORMAT, "version": list(self.version), "changes": rows,
                "digest": hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:32]}

    def encode(self) -> bytes:
        """For this host's file."""
        settled = [[list(key), time] for key, time in sorted(self.settled)]
        return json.dumps({**self.export(), "settled": settled}, indent=1).encode()

    @classmethod
    def load(cls, data: Any) -> Live:
        """What `export` or the JSON of `encode` gave; ValueError when it is anything else."""
        try:
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']!r}, this program reads {FORMAT}")
            if len(data["changes"]) > MOST:
                raise ValueError(f"{len(data['changes'])} changes, at most {MOST}")
            changes = [_checked(Change(*row)) for row in data["changes"]]
            settled = [((str(key[0]), str(key[1]), str(key[2])), float(time)) for key, time in data.get("settled", [])]
        except (TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
            raise ValueError("not the live changes of ns7") from error
        return cls(changes, settled)


def _checked(change: Change) -> Change:
    """ValueError unless every field is of its kind. Whether the value is allowed is for the configuration to say."""
    for text in (change.service, change.server, change.user, change.node):
        if not isinstance(text, str) or len(text) > MOST_NAME or not (text.isprintable() and text.isascii()):
            raise ValueError("a name that is none")
    good = {"server": change.value is None or (isinstance(change.value, dict) and all(
                isinstance(value, str | int) for value in change.value.values())
                and isinstance(change.value.get("address"), str)
                and str(change.value.get("name")).lower() == change.server),
            "weight": type(change.value) is int, "state": isinstance(change.value, str)}
    if change.what not in KINDS or not (good[change.what] or change.lifted):
        raise ValueError(f"{change.what!r} cannot be {change.value!r}"[:200])
    flags = isinstance(change.lifted, bool) and isinstance(change.saved, bool)
    if type(change.time) not in (int, float) or not 0 <= change.time < 1e11 or not flags:
        raise ValueError("a change without a time")
    return change._replace(time=float(change.time))


# Over the document: the file as TOML gives it, checked already

def find_service(document: Document, name: str) -> Document | None:
    """The table of a service."""
    return next((service for service in document.get("service", []) if service["name"].lower() == name), None)


def find_server(service: Document, name: str) -> int | None:
    """The place of a server in its service."""
    return next((place for place, server in enumerate(service.get("server", [])) if server["name"].lower() == name),
                None)


def value_in(document: Document, key: Key) -> Any:
    """What the document says of a key: as `Change.value`."""
    service = find_service(document, key[0])
    place = None if service is None else find_server(service, key[1])
    if service is None or place is None:
        return None
    server = service["server"][place]
    return server if key[2] == "server" else server.get(key[2], DEFAULTS[key[2]])


def agrees(document: Document, change: Change) -> bool:
    """Whether the document says what the change does."""
    found = value_in(document, change.key)
    if change.what == "server" and found is not None and change.value is not None:
        return bool(found["address"] == change.value["address"])
    return bool(found == change.value)


def lay_over(document: Document, change: Change) -> str:
    """Alter the document as the change says; why not, "" when it was done."""
    service = find_service(document, change.service)
    if service is None:
        return f"there is no service {change.service}"
    place = find_server(service, change.server)
    if change.what == "server" and change.value is not None:
        if place is None:
            service["server"].append(dict(change.value))
        else:
            service["server"][place] = dict(change.value)
        return ""
    if place is None:
        return "" if change.what == "server" else f"there is no server {change.server} in {change.service}"
    if change.what != "server":
        service["server"][place][change.what] = change.value
        return ""
    if len(service["server"]) == 1:
        return f"{change.server} is the last server of {change.service}: add another one first"
    if str(service.get("primary", "")).lower() == change.server:
        return f"{change.server} is the primary of {change.service}: drain it, or change `primary` in the file first"
    del service["server"][place]
    return ""


def overlaid(document: Document, changes: Iterable[Change]) -> tuple[Document, Mapping[Key, str]]:
    """A document with the changes in it, and why those that are not in it are not."""
    result = copy.deepcopy(document)
    idle = {change.key: reason for change in changes if (reason := lay_over(result, change))}
    return result, idle
