"""`ns7 check`, `ns7 sample-config`, and the light door."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from balancer.cli import check, sample
from tests.unit.balancer.config.files import PLAIN


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers(required=True)
    check.register(subparsers)
    sample.register(subparsers)
    arguments = parser.parse_args(words)
    code: int = arguments.run(arguments)
    return code


def written(folder: Path, text: str) -> str:
    path = folder / "ns7.toml"
    path.write_text(text)
    return str(path)


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, PLAIN + '[[service.server]]\nname = "b"\naddress = "[2001:db8::1]:53"\n')
    assert run("check", "-c", path) == 0
    assert capsys.readouterr() == (f"{path}: ok: 1 service, 2 servers\n", "")


def test_check_tells_every_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, PLAIN.replace("192.0.2.1:53", "192.0.2.1") + "weightt = 3\n")
    assert run("check", "-c", path) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(" ")[0] for line in err.splitlines()] == [f"{path}:6:1:", f"{path}:7:1:"]


def test_check_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, PLAIN + "[nodes.one]\n")
    assert run("check", "-c", path, "--node", "one") == 0
    assert run("check", "-c", path, "--node", "two") == 2
    assert '"two"' in capsys.readouterr().err


def test_check_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "--json", "-c", written(tmp_path, PLAIN)) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "problems": [], "services": 1, "servers": 1}
    assert run("check", "--json", "-c", written(tmp_path, PLAIN + "x = 1\n")) == 2
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert err == ""
    assert told["ok"] is False
    assert (told["problems"][0]["line"], told["problems"][0]["path"]) == (7, "service[0].server[0].x")


def test_sample_passes_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sample-config") == 0
    path = written(tmp_path, capsys.readouterr().out)
    assert run("check", "-c", path) == 0


def test_door_is_light() -> None:
    code = (
        "import sys, balancer.errors, balancer.config, balancer.cli.check, balancer.cli.sample;"
        "balancer.config.Endpoint; balancer.config.ConfigError;"
        "print([name for name in ('pydantic', 'pydantic_core', 'tomllib', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
