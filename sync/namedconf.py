"""What named's configuration says, read from `named-checkconf -p`: canonical, includes resolved. Pure.

What a statement means is asked only of the few that matter. Zones that named itself writes are never copied: a copy of
such a file is old the moment it is made, and named's journal beside it would be damaged.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from balancer.namedconf import ConfError, Statement, Word, body, parse, render, value, word

TREE = "@TREE@"                 # stands in a published configuration for the folder of the zone files
_NAME = re.compile(r"[a-z0-9_/*-]+(?:\.[a-z0-9_/*-]+)*")
_VIEW = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# What other statements refer to, so it travels with the zones. Keys do not: the copy would be readable by rsync.
_SHARED = frozenset({"acl", "primaries", "masters", "remote-servers"})
_PRIMARY, _SECONDARY = frozenset({"primary", "master"}), frozenset({"secondary", "slave", "mirror"})
_NOTHING = frozenset({"none", "no", ""})


class Zone(NamedTuple):
    """A zone that is copied. file: absolute, on the publisher; path: below the tree; view "" is none."""

    name: str
    view: str
    file: str
    path: str
    text: bool                  # whether the file is in text format


class Left(NamedTuple):
    """A zone that is not copied, why, and the statement that a puller needs instead ("" for none)."""

    name: str
    view: str
    reason: str
    stanza: str


class Layout(NamedTuple):
    """What a configuration says of zones. conf(chosen) is the published configuration of the zones chosen."""

    directory: str
    zones: tuple[Zone, ...]
    left: tuple[Left, ...]
    statements: tuple[Statement, ...]

    def conf(self, chosen: Iterable[tuple[str, str]]) -> str:
        """The statements of these zones, by (view, name), with TREE where their files will lie."""
        return _published(self, frozenset(chosen))


def layout(text: str, exclude: Sequence[str], publisher: str) -> Layout:
    """What `named-checkconf -p` says of zones. exclude: names every host has its own of; publisher: for stanzas."""
    statements = parse(text)
    options = next((body(each) for each in statements if word(each, 0) == "options"), [])
    directory = value(options, "directory") or "/"
    zones: list[Zone] = []
    left: list[Left] = []
    for view, upper, zone in _zones(statements):
        found = _zone(zone, view, [upper, options], directory, exclude, publisher)
        if isinstance(found, Zone):
            zones.append(found)
        elif found is not None:
            left.append(found)
    return Layout(directory, tuple(zones), tuple(left), tuple(statements))


def _zones(statements: Iterable[Statement]) -> Iterator[tuple[str, list[Statement], Statement]]:
    for statement in statements:
        if word(statement, 0) == "zone":
            yield "", [], statement
        elif word(statement, 0) == "view":
            inner = body(statement)
            yield from ((word(statement, 1), inner, each) for each in inner if word(each, 0) == "zone")


def zone_name(statement: Statement) -> str:
    """A zone's name, lower case, without the dot at its end."""
    return word(statement, 1).lower().rstrip(".") or "."


def _zone(statement: Statement, view: str, above: Sequence[Sequence[Statement]], directory: str,
          exclude: Sequence[str], publisher: str) -> Zone | Left | None:
    name, inner = zone_name(statement), body(statement)
    kind, file = value(inner, "type") or "", value(inner, "file") or ""
    if name in exclude or not kind:             # without a type: in-view, a zone of another view
        return None
    if kind in _SECONDARY:
        return Left(name, view, "a secondary zone: named transfers it", render([statement]))
    if kind not in _PRIMARY:
        return None                             # hints, forwards, stubs: every host has its own
    if word(statement, 2).upper() not in ("", "IN"):
        return Left(name, view, f"of class {word(statement, 2)}", "")
    reason = _written_by_named(inner, above)
    if reason:
        return Left(name, view, reason, _secondary(name, publisher))
    if not file or value(inner, "database") is not None:
        return Left(name, view, "it has no file", "")
    if _NAME.fullmatch(name) is None or len(name) > 254 or (view and _VIEW.fullmatch(view) is None):
        return Left(name, view, "its name has unusual characters", _secondary(name, publisher))
    # One zone, one file; "/" is in names of RFC 2317 and must not be a folder.
    path = posixpath.join("zones", view, name.replace("/", "%2f") if name not in (".", "..") else "root")
    form = next((found for each in (inner, *above) if (found := value(each, "masterfile-format"))), "text")
    return Zone(name, view, posixpath.join(directory, file), path, form == "text")


def _written_by_named(zone: Sequence[Statement], above: Sequence[Sequence[Statement]]) -> str:
    """Why named writes this zone's file itself, "" when it does not. Options above a zone hold for it too."""
    for option in ("allow-update", "update-policy", "dnssec-policy", "inline-signing", "auto-dnssec"):
        own = value(zone, option)
        inherited = None if option == "update-policy" else next(
            (found for each in above if (found := value(each, option)) is not None), None)
        said = own if own is not None else inherited
        if said is not None and said not in _NOTHING and not (option == "auto-dnssec" and said == "off"):
            return f"named writes it ({option})"
    return ""


def _secondary(name: str, publisher: str) -> str:
    file = re.sub(r"[^a-z0-9._-]", "_", name)
    return f'zone "{name}" {{ type secondary; primaries {{ {publisher}; }}; file "{file}.secondary"; }};\n'


def _published(found: Layout, chosen: frozenset[tuple[str, str]]) -> str:
    paths = {(zone.view, zone.name): zone.path for zone in found.zones if (zone.view, zone.name) in chosen}

    def kept(statements: Iterable[Statement], view: str) -> list[Statement]:
        result: list[Statement] = []
        for statement in statements:
            if word(statement, 0) != "zone":
                result.append(statement)
            elif (view, zone_name(statement)) in paths:
                result.append(_moved(statement, paths[view, zone_name(statement)]))
            elif view and value(body(statement), "in-view") in views and (
                    value(body(statement), "in-view"), zone_name(statement)) in paths:
                result.append(statement)
        return result

    views = {view for view, _ in paths}
    top: list[Statement] = []
    for statement in found.statements:
        first, view = word(statement, 0), word(statement, 1)
        if first in _SHARED:
            top.append(statement)
        elif first == "zone":
            top += kept([statement], "")
        elif first == "view" and view in views:
            top.append(tuple(kept(part, view) if isinstance(part, list) else part for part in statement))
    return render(top)


def _moved(statement: Statement, path: str) -> Statement:
    """The zone with its file below the tree; journals and key folders are the publisher's own."""
    inner: list[Statement] = []
    for each in body(statement):
        if word(each, 0) == "file":
            inner.append((Word("file"), Word(f"{TREE}/{path}", True)))
        elif word(each, 0) not in ("journal", "key-directory"):
            inner.append(each)
    return tuple(inner if isinstance(part, list) else part for part in statement)


def read_key(text: str) -> tuple[str, str, str]:
    """(name, algorithm, secret in base64) of the one key that `tsig-keygen` wrote; ConfError for anything else."""
    keys = [each for each in parse(text) if word(each, 0) == "key"]
    if len(keys) != 1:
        raise ConfError(f"must hold one key statement, as `tsig-keygen` writes it (has {len(keys)})")
    name, algorithm, secret = word(keys[0], 1), value(body(keys[0]), "algorithm"), value(body(keys[0]), "secret")
    if not name or not algorithm or not secret:
        raise ConfError("must hold a key with name, algorithm and secret, as `tsig-keygen` writes it")
    return name, algorithm, secret


def count_records(text: str) -> int:
    """How many resource records a master file has: its entries (RFC 1035 §5.1) that are no control entries."""
    count = depth = 0
    for line in text.splitlines():
        begins = depth == 0 and not line.isspace() and line != "" and line.lstrip()[0] not in ";$"
        if begins and not (depth == 0 and ("(" in line or '"' in line or ";" in line)):
            count += 1
            continue
        if depth == 0 and not begins:
            continue
        count += begins
        depth = _depth(line, depth)
    return count


def _depth(line: str, depth: int) -> int:
    quoted, at = False, 0
    while at < len(line):
        sign = line[at]
        if sign == "\\":
            at += 1
        elif sign == '"':
            quoted = not quoted
        elif not quoted:
            if sign == ";":
                break
            depth = max(0, depth + (sign == "(") - (sign == ")"))
        at += 1
    return depth
