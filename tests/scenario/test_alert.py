"""The alert process of a real `ns7 run`: what happens is told, once and in order, whoever is down meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartBalancer, StartServer
from tests.helpers.client import ask
from tests.helpers.daemon import Balancer
from tests.helpers.mail import MailServer
from tests.helpers.ports import free_address
from tests.helpers.waiting import wait_for

LONG = 30.0         # seconds; a courier waits up to a few between its tries


def section(server: MailServer, *more: str) -> str:
    return "\n".join(["[alerts]", 'mail_to = ["a@example.com"]', 'mail_from = "ns7@example.com"',
                      f'smtp = "{server.address}"', 'group = "300ms"', *more])


def refuse(balancer: Balancer) -> None:
    """A problem: a configuration that cannot be applied."""
    right = balancer.config.read_text()
    balancer.config.write_text(right + "\nnonsense = 1\n")
    assert balancer.command("reload").returncode == 2
    balancer.config.write_text(right)


def accept(balancer: Balancer) -> None:
    """And its end."""
    assert balancer.command("reload").returncode == 0


def listed(balancer: Balancer) -> dict[str, Any]:
    pid(balancer)
    done = balancer.command("alert", "list", "--json")
    assert done.returncode == 0, done.stderr
    state: dict[str, Any] = json.loads(done.stdout)
    return state


def waiting(balancer: Balancer) -> int:
    return int(listed(balancer)["queues"][0]["waiting"])


def pid(balancer: Balancer, name: str = "alert") -> int:
    """Of that process, as soon as it runs."""

    def running() -> int:
        told = balancer.status()["processes"][name]
        return int(told["pid"]) if told["running"] else 0

    return wait_for(f"{name} runs", running)


def states(server: MailServer) -> list[str]:
    """What the mails say of the configuration, in order."""
    return re.findall(r"^config \S+ is (\w+)", "\n".join(server.bodies()), re.MULTILINE)


def test_problem_and_recovery(start: StartBalancer, nameserver: StartServer) -> None:
    with MailServer() as server:
        balancer = start([nameserver().address], more=section(server))
        refuse(balancer)
        wait_for("mail", lambda: server.accepted)
        assert [alert["state"] for alert in listed(balancer)["open"]] == ["refused"]
        accept(balancer)
        wait_for("recovery", lambda: len(server.accepted) == 2)
    assert re.search(r": config .*ns7.toml is refused$", server.subjects()[0])
    assert re.search(r": config .*ns7.toml is applied, was refused for ", server.subjects()[1])
    assert "nonsense" in server.bodies()[0]
    assert listed(balancer)["open"] == []


@pytest.mark.long
@pytest.mark.parametrize("seconds", [0, pytest.param(60, marks=pytest.mark.timeout(300))])
def test_mail_server_down_across_three_transitions(
    start: StartBalancer, nameserver: StartServer, seconds: float
) -> None:
    """Told once, in order, after it returns; the alert process is killed and killed again meanwhile."""
    server = MailServer()
    balancer = start([nameserver().address], more=section(server))
    for act in (refuse, accept, refuse):
        before, old = waiting(balancer), pid(balancer)
        act(balancer)
        wait_for("spooled", lambda before=before: waiting(balancer) > before)
        os.kill(old, signal.SIGKILL)
        assert ask(balancer.address), "nothing is blocked"
        wait_for("a successor", lambda old=old: pid(balancer) != old)
    time.sleep(seconds)
    with server:
        wait_for("told", lambda: len(states(server)) >= 3, LONG + seconds)
        wait_for("all told", lambda: waiting(balancer) == 0, LONG)
    assert states(server) == ["refused", "applied", "refused"]
    assert len({message["Message-ID"] for _, message in server.accepted}) == len(server.accepted)


@pytest.mark.long
def test_told_after_a_restart_of_ns7(tmp_path: Path, nameserver: StartServer) -> None:
    server = MailServer()
    target = nameserver().address
    with Balancer(tmp_path, [target], more=section(server)) as balancer:
        refuse(balancer)
        wait_for("spooled", lambda: waiting(balancer) == 1)
    with Balancer(tmp_path, [target], more=section(server)) as balancer, server:
        wait_for("told", lambda: len(states(server)) == 2, LONG)
        assert states(server) == ["refused", "gone"], "the new run has a right configuration"
        refuse(balancer)
        wait_for("told", lambda: len(states(server)) == 3, LONG)


@pytest.mark.long
def test_a_process_that_dies_is_told(start: StartBalancer, nameserver: StartServer) -> None:
    with MailServer() as server:
        balancer = start([nameserver().address], more=section(server), http=[free_address()])
        os.kill(balancer.workers()[0], signal.SIGKILL)
        os.kill(pid(balancer, "admin"), signal.SIGKILL)
        os.kill(pid(balancer), signal.SIGKILL)
        for what in ("worker 0 is restarted, was up", "component admin is up, was down for",
                     "component alert is up, was down for"):
            wait_for(what, lambda what=what: f"\n{what}" in "\n".join(server.bodies()), LONG)
        wait_for("nothing open", lambda: listed(balancer)["open"] == [])


def test_commands(start: StartBalancer, nameserver: StartServer, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_text(f'#!/bin/sh\necho "$NS7_ALERT_WHAT $NS7_ALERT_KIND $NS7_ALERT_AFTER" >>{tmp_path}/ran\n')
    hook.chmod(0o755)
    with MailServer() as server:
        balancer = start([nameserver().address], more=section(server, f'command = ["{hook}"]'))
        pid(balancer)
        done = balancer.command("alert", "test")
        assert (done.returncode, done.stdout) == (0, "a@example.com: ok\ncommand: ok\n"), done.stderr
        assert server.subjects()[0].endswith(": this is a test")
        refuse(balancer)
        wait_for("the hook ran", lambda: (tmp_path / "ran").read_text() == "test test \nproblem config refused\n")
        assert "is refused" in balancer.command("alert", "list").stdout
        assert balancer.command("alert", "ack", "1").stdout.endswith("(acknowledged)\n")
        assert "(acknowledged)" in balancer.command("alert", "list").stdout
        done = balancer.command("alert", "ack", "99")
        assert done.returncode == 2 and "99" in done.stderr
        server.stop()
        done = balancer.command("alert", "test", "--json")
        assert done.returncode == 1
        assert [outcome["ok"] for outcome in json.loads(done.stdout)] == [False, True]


def test_settings_are_applied_live(start: StartBalancer, nameserver: StartServer) -> None:
    with MailServer() as first, MailServer() as second:
        balancer = start([nameserver().address])
        pid(balancer)
        assert balancer.command("alert", "test").returncode == 2, "nobody to tell"
        balancer.reload(more=section(first))
        assert balancer.command("alert", "test").returncode == 0
        balancer.reload(more=section(second))
        assert balancer.command("alert", "test").returncode == 0
        assert (len(first.accepted), len(second.accepted)) == (1, 1)
