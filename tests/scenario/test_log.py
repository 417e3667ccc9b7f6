"""The log of a running ns7: as JSON, with the journal's priorities, one line per event."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import StartServer
from tests.helpers.daemon import Balancer
from tests.helpers.waiting import wait_for

DIGITS = {"3": "error", "4": "warning", "5": "notice", "6": "info"}


def test_json_into_the_journal(nameserver: StartServer, tmp_path: Path) -> None:
    """Standard error is what JOURNAL_STREAM names, so each line has its priority in front."""
    log = tmp_path / "ns7.log"
    log.write_bytes(b"")
    stream = f"{log.stat().st_dev}:{log.stat().st_ino}"
    with Balancer(tmp_path, [nameserver().address], wait=False, process={"log": "json"},
                  env={"JOURNAL_STREAM": stream}) as balancer:
        wait_for("ready", lambda: '"message": "ready: ' in balancer.output())
        balancer.kill_worker()
        balancer.rewrite(process={"log": "plain"})
        done = balancer.command("reload")
        assert done.returncode == 2 and "need a restart: process.log" in done.stderr, done
        balancer.rewrite(process={"log": "json"})
        wait_for("an alert", lambda: '"process": "alert"' in balancer.output())
    lines = balancer.output().splitlines()
    assert all(line[0] + line[2] == "<>" for line in lines), lines
    found = [json.loads(line[3:]) for line in lines]
    assert [one["level"] for one in found] == [DIGITS[line[1]] for line in lines]
    events = [one for one in found if "event" in one]
    kinds = {one["event"]["kind"]: one for one in events}
    assert kinds.keys() == {"worker", "config"}
    assert (kinds["config"]["level"], kinds["worker"]["level"]) == ("warning", "notice")
    assert kinds["config"]["message"].startswith("config /") and kinds["config"]["process"] == "supervisor"
    ids = [one["event"]["id"] for one in events]
    assert ids == sorted(set(ids)), "each event once"
