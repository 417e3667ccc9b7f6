"""Whether this program still stands where it was started from. Runs in the supervisor.

Children are started from the running program's own folder only (kinds.py). Where its files were replaced or removed in
place, a child that ends has no successor: nothing of another version is believed. So that is told when it happens, and
not when the first one is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from balancer import __version__
from balancer.process.kinds import FOLDER

FILE = "balancer/__init__.py"
_VERSION = re.compile(r'^__version__ = "([^"\n]{1,50})"', re.MULTILINE)
_WHAT_NOW = "`ns7 upgrade` starts what is installed; until then a process that ends has no successor"


class Installed:
    """Looks at the files in `folder`, and tells (before, after, reason) when they become another program's."""

    def __init__(self, tell: Callable[[str, str, str], None], folder: str = FOLDER, version: str = __version__) -> None:
        self._tell, self._file, self._version = tell, Path(folder) / FILE, version
        self._seen = self._stat()
        self.state = "same"

    def _stat(self) -> tuple[int, ...]:
        try:
            found = self._file.stat()
        except OSError:
            return ()
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size

    def look(self) -> None:
        """Costs one system call while nothing has changed."""
        seen = self._stat()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            text = self._file.read_text(errors="replace")
        except OSError as error:
            self._become("missing", f"the files of this version are gone ({self._file}: {error.strerror})")
            return
        found = _VERSION.search(text)
        if found is not None and found[1] == self._version:
            self._become("same", "the files of this version are there again")
        else:
            name = f"version {found[1]}" if found else "another version"
            self._become("differs", f"{name} was installed where version {self._version} runs")

    def _become(self, state: str, reason: str) -> None:
        before, self.state = self.state, state
        if state != before:
            self._tell(before, state, reason if state == "same" else f"{reason}: {_WHAT_NOW}")
