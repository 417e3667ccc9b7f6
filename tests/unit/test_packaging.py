"""pyproject.toml names every package: its list is written by hand, because folder names are import names."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_INSTALLED = {"tests", "benchmarks"}


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    tops = [path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name not in NOT_INSTALLED]
    folders = {init.parent for top in tops for init in top.rglob("__init__.py")}
    assert sorted(listed) == sorted(".".join(folder.relative_to(ROOT).parts) for folder in folders)
