"""The developers' script: its grammar, and what it says where it may not install anything."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEV = ROOT / "dev"


def run(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": path or os.environ["PATH"]}
    return subprocess.run([DEV, *arguments], capture_output=True, text=True, timeout=60, check=False, env=env)


def test_usage_lists_every_verb() -> None:
    verbs = re.findall(r"^  (\w+)\)", DEV.read_text().partition("case $command in")[2], re.MULTILINE)
    assert {"demo", "test", "fuzz", "bench", "lint", "build", "ns7"} <= set(verbs)
    usage = run()
    assert usage.returncode == 0
    for verb in verbs:
        assert f"./dev {verb} " in usage.stdout


def test_unknown_verb() -> None:
    assert run("tset").returncode == 1


@pytest.fixture
def ordinary_user(tmp_path: Path) -> str:
    """A PATH on which nothing is installed and the user is not root; installing anything would leave a mark."""
    stubs = {"id": "echo 1000", "dpkg-query": "exit 1", "apt-get": f"touch {tmp_path}/installed", "python3": "exit 1"}
    for name, line in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


def test_who_is_not_root_is_told_one_line(ordinary_user: str, tmp_path: Path) -> None:
    copy = tmp_path / "tree"                # no .venv here, so it would have to be made
    copy.mkdir()
    (copy / "dev").write_text(DEV.read_text())
    done = subprocess.run(["bash", copy / "dev", "build"], capture_output=True, text=True, timeout=60, check=False,
                          env={**os.environ, "PATH": ordinary_user})
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "sudo apt-get install" in line
    assert all(package in line for package in ("gcc", "python3-dev", "python3-venv"))
    assert not (tmp_path / "installed").exists()
