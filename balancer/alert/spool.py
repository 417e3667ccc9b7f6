"""The queue on disk: one file per message, in order of their numbers. Runs in the alert process.

A file is complete or not there, whatever moment the process or the host dies at. Damaged files and refused messages
are set aside in the folder `aside`. The queue is bounded: the oldest information goes first, then the oldest of all,
and the next message says how many. Where the disk takes nothing, messages wait in memory.
"""

from __future__ import annotations

import contextlib
import zlib
from bisect import insort
from pathlib import Path

from balancer.durable import PART, write_durably

MOST_MESSAGES = 1000
MOST_BYTES = 16 << 20
MOST_ASIDE = 100


def write(path: Path, data: bytes) -> None:
    """Put `data` there with a check sum, whole or not at all; OSError when that cannot be."""
    write_durably(path, b"%08x\n%b" % (zlib.crc32(data), data))


def read(path: Path) -> bytes:
    """What `write` put there; ValueError when it is something else, OSError when it cannot be read."""
    check, _, data = path.read_bytes().partition(b"\n")
    if check != b"%08x" % zlib.crc32(data):
        raise ValueError(f"{path} is damaged")
    return data


class Spool:
    """A queue in a folder of its own.

    damaged counts files set aside for what they contain, dropped_total messages thrown away, both since the start;
    dropped those of them (and of earlier runs) that no delivered message has told of.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: list[str] = []
        self._bytes: dict[str, int] = {}
        self._in_memory: dict[str, bytes] = {}
        self.damaged = self.dropped_total = self.dropped = 0
        with contextlib.suppress(OSError):
            (folder / "aside").mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError, ValueError):
            self.dropped = int(read(folder / "dropped"))
        for path in folder.glob("*.*"):
            if path.suffix == PART:
                path.unlink(missing_ok=True)
            else:
                self._bytes[path.name] = path.stat().st_size
        self._names = sorted(self._bytes)

    def __len__(self) -> int:
        return len(self._names)

    def put(self, number: int, data: bytes, is_information: bool) -> None:
        """Queue a message; one with the same number is replaced."""
        name = f"{number:016d}.{'info' if is_information else 'alert'}"
        try:
            write(self._folder / name, data)
            self._in_memory.pop(name, None)
        except OSError:
            self._in_memory[name] = data
        if name not in self._bytes:
            insort(self._names, name)
        self._bytes[name] = len(data)
        while len(self._names) > MOST_MESSAGES or (sum(self._bytes.values()) > MOST_BYTES and len(self._names) > 1):
            victim = next((each for each in self._names if each.endswith(".info")), self._names[0])
            self.dropped_total += 1
            self._count_dropped(self.dropped + 1)
            self.done(victim)

    def head(self) -> tuple[str, bytes] | None:
        """Name and content of the oldest message; what cannot be read is set aside on the way."""
        while self._names:
            name = self._names[0]
            if name in self._in_memory:
                return name, self._in_memory[name]
            try:
                return name, read(self._folder / name)
            except (OSError, ValueError):
                self.set_aside(name)
                self.damaged += 1
        return None

    def done(self, name: str) -> None:
        """Forget a message."""
        if self._forget(name):
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()

    def set_aside(self, name: str) -> None:
        """Take a message out of the queue and keep it for somebody to look at."""
        aside = self._folder / "aside"
        if self._forget(name):
            with contextlib.suppress(OSError):
                (self._folder / name).rename(aside / name)
                for path in sorted(aside.iterdir())[:-MOST_ASIDE]:
                    path.unlink()

    def told_dropped(self, count: int) -> None:
        """A delivered message told that `count` were dropped."""
        if count:
            self._count_dropped(self.dropped - count)

    def _count_dropped(self, count: int) -> None:
        self.dropped = count
        with contextlib.suppress(OSError):
            write(self._folder / "dropped", b"%d" % count)

    def _forget(self, name: str) -> bool:
        if self._bytes.pop(name, None) is None:
            return False
        self._in_memory.pop(name, None)
        self._names.remove(name)
        return True
