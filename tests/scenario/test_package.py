"""What a host gets: the source archive, installed into a clean virtual environment, works without the source tree."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

from tests.helpers import ports, processes, wire
from tests.helpers.client import Client
from tests.helpers.config import Settings
from tests.helpers.daemon import ROOT
from tests.helpers.waiting import PATIENCE, wait_for

BUILDING = 600
DEMO = 10              # seconds: enough to start on a busy machine
pytestmark = [pytest.mark.long, pytest.mark.timeout(2 * BUILDING)]


def run(*argv: str | Path, cwd: Path, seconds: float = 60) -> str:
    """The output of a command that must end with 0; nothing in its environment leads to the source tree."""
    ours = ("PYTHON", "NS7_", "VIRTUAL_ENV")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds, cwd=cwd, env=env, check=False)
    assert done.returncode == 0, f"{argv}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of the installed package lie."""
    folder = tmp_path_factory.mktemp("package")
    tree = folder / "tree"
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "setup.py", "-q", "sdist", cwd=tree, seconds=BUILDING)
    [archive] = (tree / "dist").iterdir()
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    venv.create(folder / "venv", with_pip=True)
    source = folder / archive.name.removesuffix(".tar.gz")
    run(folder / "venv/bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check",
        "-c", ROOT / "constraints.txt", source, cwd=folder, seconds=BUILDING)
    return folder / "venv/bin"


def test_version(bin_folder: Path, tmp_path: Path) -> None:
    assert run(bin_folder / "ns7", "--version", cwd=tmp_path).startswith("ns7 ")


def test_nothing_comes_from_the_source_tree(bin_folder: Path, tmp_path: Path) -> None:
    where = run(bin_folder / "python", "-c", "import balancer.datapath.poller as p; print(p.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(bin_folder.parent)


def test_check(bin_folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "ns7.toml"
    config.write_text(Settings(["127.0.0.1:5301"], ["127.0.0.1:5300"]).text(tmp_path / "ns7.sock"))
    run(bin_folder / "ns7", "check", "-c", config, cwd=tmp_path)


def test_sample_config_is_valid(bin_folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "ns7.toml"
    config.write_text(run(bin_folder / "ns7", "sample-config", cwd=tmp_path))
    run(bin_folder / "ns7", "check", "-c", config, cwd=tmp_path)


def test_demo_answers(bin_folder: Path, tmp_path: Path) -> None:
    port, output = ports.free_port(), tmp_path / "output"
    argv = [bin_folder / "ns7", "demo", "--port", str(port), "--seconds", str(DEMO)]
    with output.open("w") as out:
        demo = subprocess.Popen(argv, cwd=tmp_path, stdout=out, stderr=out, start_new_session=True)
    try:
        with Client(f"127.0.0.1:{port}") as client:

            def answered() -> bytes | None:
                with contextlib.suppress(AssertionError, ConnectionRefusedError):
                    return client.ask(wire.query("www.example.com"), 0.2)
                return None

            answer = wait_for("the demo answers", answered, DEMO)
        assert wire.rcode(answer) == wire.RCODES["NOERROR"]
        assert wire.flags(answer) & wire.AA
        assert demo.wait(DEMO + PATIENCE) == 0, output.read_text()
        assert "dig @127.0.0.1" in output.read_text()
    finally:
        processes.kill(processes.tree(demo.pid))
        demo.wait()
