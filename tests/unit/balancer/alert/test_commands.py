"""`ns7 alert …` toward a control socket that answers as the supervisor does; and what the process imports."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from balancer.cli import parser
from balancer.errors import ControlError

ALERT = {"id": 17, "kind": "server", "subject": "ns7/ns7c1", "state": "down", "since": 1.7e9, "reason": "no\nanswer",
         "acked": False, "flapping": False, "changes": 0}


@pytest.fixture
def control(tmp_path: Path) -> Callable[..., tuple[str, list[dict[str, Any]]]]:
    """control(answer) → the socket's path, and the requests it was sent."""

    def serve(**answer: Any) -> tuple[str, list[dict[str, Any]]]:
        listener = socket.socket(socket.AF_UNIX)
        path = str(tmp_path / "s")
        listener.bind(path)
        listener.listen()
        requests: list[dict[str, Any]] = []

        def run() -> None:
            with listener, listener.accept()[0] as client, client.makefile("rwb") as stream:
                requests.append(json.loads(stream.readline()))
                stream.write(json.dumps(answer).encode() + b"\n")

        threading.Thread(target=run, daemon=True).start()
        return path, requests

    return serve


def run(*words: str) -> int:
    arguments = parser().parse_args(["alert", *words])
    code: int = arguments.run(arguments)
    return code


def test_test(control: Any, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = [{"target": "a@example.com", "ok": True, "error": ""},
                {"target": "command", "ok": False, "error": "exit code 1: no"}]
    path, requests = control(ok=True, result=outcomes)
    assert run("test", "--socket", path) == 1
    assert capsys.readouterr().out == "a@example.com: ok\ncommand: exit code 1: no\n"
    assert requests == [{"verb": "alert.test", "timeout": 9.0}]
    Path(path).unlink()
    path, _ = control(ok=True, result=outcomes[:1])
    assert run("test", "--socket", path, "--json") == 0
    assert json.loads(capsys.readouterr().out) == outcomes[:1]


def test_ack(control: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path, requests = control(ok=True, result=[ALERT | {"acked": True}])
    assert run("ack", "17", "--socket", path) == 0
    assert requests == [{"verb": "alert.ack", "arguments": {"alert": "17"}}]
    assert "server ns7/ns7c1 is down: no answer (acknowledged)\n" in capsys.readouterr().out


def test_list(control: Any, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"open": [ALERT, ALERT | {"id": 18, "flapping": True, "reason": ""}], "open_total": 7,
             "counters": {"mails_sent": 3}, "queues": [{"target": "a@example.com", "waiting": 2, "error": "refused"}]}
    path, requests = control(ok=True, result=state)
    assert run("list", "--socket", path) == 0
    first, second, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("17 ") and first.endswith("server ns7/ns7c1 is down: no answer")
    assert second.startswith("18 ") and second.endswith("server ns7/ns7c1 is flapping, down")
    assert rest == ["and 5 more", "a@example.com: 2 waiting: refused", "mails_sent 3"]
    assert requests == [{"verb": "alert.list"}]


def test_nothing_open(control: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = control(ok=True, result={"open": [], "open_total": 0, "counters": {}, "queues": []})
    assert run("list", "--socket", path) == 0
    assert capsys.readouterr().out == "no open alerts\n"


def test_refused(control: Any, tmp_path: Path) -> None:
    path, _ = control(ok=False, error="no open alert has the id or subject")
    with pytest.raises(ControlError, match="no open alert"):
        run("ack", "x", "--socket", path)
    with pytest.raises(ControlError, match="cannot ask ns7"):
        run("list", "--socket", str(tmp_path / "none"))


def imported(what: str) -> set[str]:
    code = f"import sys, {what}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_nothing_heavy_is_imported() -> None:
    assert not imported("balancer.alert.runner") & {"scapy", "aiohttp", "dns", "rich", "prometheus_client", "pydantic"}
    assert not imported("balancer.alert.commands") & {"asyncio", "pydantic", "aiosmtplib", "email", "rich"}
