"""`./dev drill` in short: real hosts in namespaces, one fault; and what an interrupted one leaves behind: nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.helpers import processes
from tests.helpers.daemon import ROOT
from tests.helpers.need import require_program
from tests.helpers.netns import FOLDER, require_netns
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.net


@pytest.fixture
def drill(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """One that breaks the director alone, gently loaded."""
    require_netns()
    for program, package in {"named": "bind9", "rsync": "rsync", "dnsperf": "dnsperf", "nft": "nftables"}.items():
        require_program(program, package)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.drill", "--only", "director", "--rate", "200", "--json", "--svg",
         str(tmp_path / "drill.svg")], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))   # a shell's background jobs ignore it
    try:
        yield process
        assert left(process.pid) == []
    finally:
        process.kill()
        process.communicate()


def left(pid: int) -> list[str]:
    """Namespaces that this process made."""
    return [path.name for path in FOLDER.glob(f"*-{pid}-*")]


def test_interrupted(drill: subprocess.Popen[str]) -> None:
    wait_for("programs run", lambda: len(processes.tree(drill.pid)) > 5)
    members = processes.tree(drill.pid)
    assert left(drill.pid)
    drill.send_signal(signal.SIGINT)
    _, said = drill.communicate(timeout=30)
    assert drill.returncode == 130 and "interrupted" in said, said
    assert processes.survivors(members) == []


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_director_dies(drill: subprocess.Popen[str], tmp_path: Path) -> None:
    """A minute: the programs of five hosts are started, and a missing standby is told after ten seconds."""
    told, said = drill.communicate(timeout=280)
    assert drill.returncode == 0, said
    _, killed, back = json.loads(told)["outcomes"]
    assert 0 < killed["taken"] < 10 and killed["mails"] and back["mails"], told
    assert killed["lost"] + back["lost"] <= 200 * (killed["taken"] + 2), told
    ElementTree.parse(tmp_path / "drill.svg")
