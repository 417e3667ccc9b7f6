"""The zones that a name server serves, from its named.conf or from a manifest of sync. Pure but for `read`.

named.conf is read as far as it takes to find `zone "NAME" { type …; }`, in views too, and `include "FILE";`. Zones
without data of their own (hint, forward, stub, delegation-only …) are left out.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

SERVED = ("primary", "master", "secondary", "slave", "mirror")
MOST_BYTES = 64 << 20
MOST_INCLUDES = 1000
MOST_ZONES = 1_000_000
_TOKEN = re.compile(
    r'\s+|//[^\n]*|\#[^\n]*|/\*.*?\*/|"((?:[^"\\]|\\.)*)"|([{};])|([^\s{};"]+)', re.DOTALL)
_NAME = re.compile(r"(?:[A-Za-z0-9_/-]{1,63}\.)*[A-Za-z0-9_/-]{1,63}")

Read = Callable[[str], str]


class Listing(NamedTuple):
    """What a file says. files: itself and what it includes; stamp: says whether one of them has changed."""

    zones: list[str]
    files: tuple[str, ...]
    stamp: object


def tokens(text: str) -> Iterator[str]:
    """The words and signs of a named.conf, without comments; ValueError where it is none."""
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"not a named.conf at line {text.count(chr(10), 0, at) + 1}")
        at = match.end()
        found = match.group(match.lastindex) if match.lastindex else None
        if found is not None:
            yield found


def from_named_conf(text: str, read: Read) -> list[str]:
    """The zones in the order of the file, each once. `read(name)` gives an included file's text."""
    found: dict[str, None] = {}
    includes = 0
    waiting = [tokens(text)]                    # of this file, and of those that include it
    statement: list[str] = []
    depth = 0                                   # of braces that are no view's
    zone = kind = ""
    while waiting:
        token = next(waiting[-1], None)
        if token is None:
            waiting.pop()
        elif token == "{":
            if depth == 0 and statement[:1] == ["zone"] and len(statement) > 1:
                zone, kind = statement[1], ""
            if depth or statement[:1] != ["view"]:
                depth += 1
            statement = []
        elif token == "}":
            depth = max(0, depth - 1)           # a view's own one finds depth 0
            if depth == 0 and zone:
                name = zone.rstrip(".").lower()
                if kind in SERVED and _NAME.fullmatch(name) and len(found) < MOST_ZONES:
                    found[name] = None
                zone = ""
            statement = []
        elif token == ";":
            if depth == 0 and statement[:1] == ["include"] and len(statement) == 2:
                includes += 1
                if includes > MOST_INCLUDES:
                    raise ValueError(f"more than {MOST_INCLUDES} includes")
                waiting.append(tokens(read(statement[1])))
            if depth == 1 and zone and statement[:1] == ["type"] and len(statement) == 2:
                kind = statement[1]
            statement = []
        else:
            statement.append(token)
    return list(found)


def from_manifest(text: str) -> list[str]:
    """The zones that a manifest of sync names: rows [view, name, …] in the first line's "zones"."""
    try:
        names = [row[1].rstrip(".").lower() for row in json.loads(text.partition("\n")[0])["zones"]]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a manifest: {error!r}") from None
    return list(dict.fromkeys(name for name in names if _NAME.fullmatch(name)))[:MOST_ZONES]


def stamp(files: Iterable[str]) -> object:
    """Changes when one of these files does."""
    return [(status.st_mtime_ns, status.st_size, status.st_ino) for status in map(os.stat, files)]


def read(path: str) -> Listing:
    """The zones of this file; OSError or ValueError when it cannot be read. Relative includes are beside it."""
    folder, files = Path(path).parent, [path]
    before = stamp(files)

    def text(name: str) -> str:
        if name != path:
            files.append(str(folder / name))
        with open(folder / name, "rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"{name} is larger than {MOST_BYTES >> 20} MiB")
        return data.decode("utf-8", "replace")

    whole = text(path)
    found = from_manifest(whole) if whole.lstrip().startswith("{") else from_named_conf(whole, text)
    return Listing(found, tuple(files), before if len(files) == 1 else stamp(files))
