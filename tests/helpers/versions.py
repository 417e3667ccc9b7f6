"""Versions of ns7 that are installed one after the other: copies of this tree behind one launcher, as a package's
console script is one.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from tests.helpers.daemon import ROOT

PACKAGES = ("balancer", "health", "failover", "sync")
LAUNCHER = """#!{python}
import sys
sys.path.insert(0, {tree!r})
from balancer.__main__ import main
sys.exit(main())
"""


class Versions:
    """`launcher` runs the version installed last."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.launcher = folder / "ns7"

    def copy(self, version: str, *changes: tuple[str, str, str]) -> Path:
        """A tree of this version with changes: (file, pattern, replacement)."""
        tree = self._folder / version
        for package in PACKAGES:
            shutil.copytree(ROOT / package, tree / package)
        named = "balancer/__init__.py", r'__version__ = ".*"', f'__version__ = "{version}"'
        for file, pattern, replacement in (named, *changes):
            self.edit(tree / file, pattern, replacement)
        return tree

    @staticmethod
    def edit(path: Path, pattern: str, replacement: str) -> None:
        """Change the one place of a file that a pattern finds."""
        text, count = re.subn(pattern, replacement, path.read_text())
        assert count == 1, f"{path}: {pattern} found {count} times"
        path.write_text(text)

    def install(self, tree: Path) -> None:
        """From now on the launcher runs this tree."""
        new = self._folder / "ns7.new"
        new.write_text(LAUNCHER.format(python=sys.executable, tree=str(tree)))
        new.chmod(0o755)
        new.replace(self.launcher)
