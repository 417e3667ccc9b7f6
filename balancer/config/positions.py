"""Where each key of a TOML text stands. Used while loading a configuration, for the lines in its errors.

tomllib tells no positions. This scanner walks a text that tomllib has accepted, so it need not judge the
syntax, only follow it. A path is as in the parsed document: ("service", 0, "server", 1, "weight").
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from typing import NamedTuple

Path = tuple[str | int, ...]

_BLANK = re.compile(r"[ \t]*")
_GAP = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# A multi-line string may end in one or two quotes of its own, just before the closing three.
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'", re.DOTALL)
_PLAIN = re.compile(r"[^,\]}#\n]*")


class Position(NamedTuple):
    line: int       # both from 1
    column: int


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text.replace("\r\n", "\n")      # as tomllib does
        self.at = 0
        self.found: dict[Path, Position] = {}
        self.last: dict[Path, int] = {}             # array of tables -> index of its newest table
        self.starts = [0, *(match.end() for match in re.finditer("\n", self.text))]

    def position(self, offset: int) -> Position:
        line = bisect_right(self.starts, offset)
        return Position(line, offset - self.starts[line - 1] + 1)

    def skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        assert match is not None
        self.at = match.end()

    def peek(self) -> str:
        return self.text[self.at:self.at + 1]

    def document(self) -> None:
        table: Path = ()
        while True:
            self.skip(_GAP)
            if self.at >= len(self.text):
                return
            if self.peek() == "[":
                table = self.header()
            else:
                self.pair(table)

    def header(self) -> Path:
        array = self.text.startswith("[[", self.at)
        self.at += 2 if array else 1
        parts = self.key()
        self.at += 2 if array else 1
        path: Path = ()
        for number, (name, offset) in enumerate(parts, 1):
            path += (name,)
            here = self.position(offset)
            if number < len(parts):
                self.found.setdefault(path, here)
            elif array:
                self.found.setdefault(path, here)
                self.last[path] = self.last.get(path, -1) + 1
                self.found[(*path, self.last[path])] = here
            else:
                self.found[path] = here         # the table's own header, better than a mention in another's
            if path in self.last:
                path += (self.last[path],)
        return path

    def pair(self, table: Path) -> None:
        path = table
        for name, offset in self.key():
            path += (name,)
            self.found.setdefault(path, self.position(offset))
        self.at += 1                            # the "="
        self.skip(_BLANK)
        self.value(path)

    def key(self) -> list[tuple[str, int]]:
        """The parts of a dotted key with their offsets; leaves `at` behind it and the blanks after it."""
        parts: list[tuple[str, int]] = []
        while True:
            self.skip(_BLANK)
            start = self.at
            if self.peek() in ('"', "'"):
                self.skip(_STRING)
                raw = self.text[start:self.at]
                name = tomllib.loads(f"k = {raw}")["k"] if "\\" in raw and raw[0] == '"' else raw[1:-1]
            else:
                self.skip(_BARE_KEY)
                name = self.text[start:self.at]
            parts.append((name, start))
            self.skip(_BLANK)
            if self.peek() != ".":
                return parts
            self.at += 1

    def value(self, path: Path) -> None:
        first = self.peek()
        if first == "[":
            self.array(path)
        elif first == "{":
            self.inline_table(path)
        elif first in ('"', "'"):
            self.skip(_STRING)
        else:
            self.skip(_PLAIN)

    def array(self, path: Path) -> None:
        self.at += 1
        index = 0
        while True:
            self.skip(_GAP)
            if self.peek() == "]":
                self.at += 1
                return
            item = (*path, index)
            self.found[item] = self.position(self.at)
            self.value(item)
            index += 1
            self.skip(_GAP)
            if self.peek() == ",":
                self.at += 1

    def inline_table(self, path: Path) -> None:
        self.at += 1
        while True:
            self.skip(_GAP)
            if self.peek() == "}":
                self.at += 1
                return
            self.pair(path)
            self.skip(_GAP)
            if self.peek() == ",":
                self.at += 1


def find_positions(text: str) -> dict[Path, Position]:
    """Path -> place of its key (of the item itself, in an array) in `text`, which tomllib has accepted."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.found


def nearest(positions: dict[Path, Position], path: Path) -> Position:
    """The place of `path`, or of the innermost table around it; (0, 0) if that is the file itself."""
    while path:
        if path in positions:
            return positions[path]
        path = path[:-1]
    return Position(0, 0)
