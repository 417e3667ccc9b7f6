"""The log: one event is one line, whatever is in it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.component import ERROR, NOTICE, WARNING, Event
from balancer.process.journal import Handler, Journal, Sparse, encode, told


def line(text: str, *, process: str = "worker", trace: str = "", as_json: bool = False, priorities: bool = False,
         **fields: Any) -> str:
    return encode(process, text, trace, fields, 1800000000.25, as_json, priorities)


@pytest.mark.parametrize(("text", "plain", "journal"), [
    ("ready", "ns7 worker: ready\n", "<6>ns7 worker: ready\n"),
    (f"{WARNING}late", "ns7 worker: late\n", "<4>ns7 worker: late\n"),
    (f"{ERROR}gone", "ns7 worker: gone\n", "<3>ns7 worker: gone\n"),
    (f"{NOTICE}<4>x", "ns7 worker: <4>x\n", "<5>ns7 worker: <4>x\n"),
    ("two\nlines", "ns7 worker: two; lines\n", "<6>ns7 worker: two; lines\n"),
    ("\x1b[31mred\x07\u2028", "ns7 worker: \\x1b[31mred\\x07\n", "<6>ns7 worker: \\x1b[31mred\\x07\n"),
])
def test_plain(text: str, plain: str, journal: str) -> None:
    assert line(text) == plain
    assert line(text, priorities=True) == journal
    assert line(text, process="").startswith("ns7 ") and "worker" not in line(text, process="")


def test_traceback_keeps_its_lines_and_their_priority() -> None:
    assert line(f"{ERROR}x", trace="Traceback\n  a\n", priorities=True) == "<3>ns7 worker: x\n<3>Traceback\n<3>  a\n"
    assert json.loads(line("x", trace="Traceback\n  a\n", as_json=True))["traceback"] == "Traceback\n  a\n"


@given(st.text(), st.text(), st.booleans(), st.booleans())
def test_always_one_line(text: str, process: str, as_json: bool, priorities: bool) -> None:
    """Nobody forges a line, or its priority, by what they send."""
    written = encode(process.replace("\n", ""), f"{WARNING}{text}", "", {"note": text}, 0.0, as_json, priorities)
    assert written.endswith("\n") and written.count("\n") == 1
    assert not priorities or written.startswith("<4>")
    if as_json:
        found = json.loads(written.removeprefix("<4>") if priorities else written)
        assert (found["message"], found["note"], found["level"]) == (text, text, "warning")


@pytest.mark.parametrize(("event", "text"), [
    (("server", "dns/a", "up", "down", "udp: refused"), "server dns/a: up → down: udp: refused"),
    (("worker", "worker 0", "up", "restarted", "killed"), "worker 0: up → restarted: killed"),
    (("config", "/etc/x", "", "applied", ""), "config /etc/x: applied"),
    (("server", "dns/a", "up", "up", "again"), "server dns/a: up: again"),
])
def test_events(event: tuple[str, ...], text: str) -> None:
    assert told(Event(0.0, *event)) == text


def test_sparse_lets_some_through_and_counts_the_others() -> None:
    sparse = Sparse(2, 60.0)
    assert [sparse.thin("x", now) for now in (1.0, 2.0, 3.0, 4.0)] == ["x", "x", "", ""]
    assert sparse.thin("x", 61.0) == "x (2 such lines were left out)"
    assert [sparse.thin("x", now) for now in (62.0, 63.0, 121.0)] == ["x", "", "x (1 such lines were left out)"]


def test_what_libraries_say(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.Logger("lib")
    logger.addHandler(Handler(Journal()))
    logger.info("nothing")
    logger.warning("beware of %s", "x")
    try:
        raise ValueError("bad")
    except ValueError:
        logger.exception("it failed")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["ns7 beware of x", "ns7 it failed", "Traceback (most recent call last):"]
    assert lines[-1] == "ValueError: bad"


def spoken(code: str, *, journal: bool, form: str) -> list[str]:
    """What a process writes whose standard error is a file, or the journal's socket by its inode."""
    read, write = os.pipe()
    found = os.fstat(write)
    script = f"from balancer.process.journal import log; log.begin('alert', {form!r}); {code}"
    environment = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino if journal else 1}"}
    subprocess.run([sys.executable, "-c", script], stderr=write, env=environment, check=False,
                   cwd=Path(__file__).parents[4])
    os.close(write)
    with os.fdopen(read) as lines:
        return lines.read().splitlines()


def test_priorities_are_for_the_journal_only() -> None:
    assert spoken("log('<4>x')", journal=True, form="plain") == ["<4>ns7 alert: x"]
    assert spoken("log('<4>x')", journal=False, form="plain") == ["ns7 alert: x"]


def test_an_exception_that_nobody_caught_is_one_line_of_json() -> None:
    (written,) = spoken("1 / 0", journal=True, form="json")
    assert written.startswith("<3>")
    found = json.loads(written[3:])
    assert (found["level"], found["process"]) == ("error", "alert")
    assert "ZeroDivisionError" in found["message"] and found["traceback"].startswith("Traceback")
