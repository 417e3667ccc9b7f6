"""pyproject.toml names every package and every data file: the lists are written by hand."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_INSTALLED = {"tests", "benchmarks"}
SOURCES = {".py", ".pyx", ".h", ".c", ".so", ".pyc", ".md"}
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def packages() -> Iterator[Path]:
    for top in ROOT.glob("*/__init__.py"):
        if top.parent.name not in NOT_INSTALLED:
            yield from (init.parent for init in top.parent.rglob("__init__.py"))


def name(folder: Path) -> str:
    return ".".join(folder.relative_to(ROOT).parts)


def test_every_package_is_listed() -> None:
    # Folder names are import names, so setuptools cannot be told to look below one folder.
    assert sorted(SETTINGS["packages"]) == sorted(name(folder) for folder in packages())


def test_every_data_file_is_installed() -> None:
    found = set(packages())
    for folder in found:
        patterns = [*SETTINGS["package-data"]["*"], *SETTINGS["package-data"].get(name(folder), [])]
        for path in folder.rglob("*"):
            home = next(parent for parent in path.parents if parent in found)
            if path.is_file() and path.suffix not in SOURCES and home == folder:
                inner = str(path.relative_to(folder))
                assert any(fnmatch(inner, pattern) for pattern in patterns), f"{name(folder)}: {inner}"
