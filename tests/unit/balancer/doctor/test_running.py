"""Checks side by side: whatever one does, the others are told of, and in time."""

from __future__ import annotations

import threading
import time
from typing import Any, cast

from balancer.component import Check, Finding, Site
from balancer.doctor.running import Result, run
from balancer.errors import Unseen

SITE = cast(Site, None)
WRONG = Finding("wrong", "Because.", "mend it", "error")


def results(*checks: Check) -> list[Result]:
    return run([(check.name, check, SITE) for check in checks])


def failing(error: Exception) -> Any:
    def gather(site: Site) -> None:
        raise error
    return gather


def test_what_fails_is_told_and_hides_nothing() -> None:
    found = results(
        Check("well", lambda site: 1, lambda facts: ()),
        Check("warns", lambda site: 1, lambda facts: [WRONG._replace(severity="warning")]),
        Check("unseen", failing(Unseen("no right", "sudo ns7 doctor")), lambda facts: ()),
        Check("unseen too", failing(Unseen("no right", "sudo ns7 doctor")), lambda facts: ()),
        Check("forbidden", failing(PermissionError(13, "Permission denied", "/x")), lambda facts: ()),
        Check("broken", lambda site: 1, lambda facts: [facts.nothing]),
        Check("wrong", lambda site: 1, lambda facts: [WRONG]))
    assert [(result.check, result.finding.severity) for result in found] == [
        ("wrong", "error"), ("unseen", "unknown"), ("forbidden", "unknown"), ("broken", "unknown"),
        ("warns", "warning")]
    assert "/x" in found[2].finding.what and "AttributeError" in found[3].finding.what


def test_what_takes_too_long_is_given_up() -> None:
    done, begun = threading.Event(), time.monotonic()
    (found,) = results(Check("slow", lambda site: done.wait(60), lambda facts: [WRONG], seconds=0.1))
    assert time.monotonic() - begun < 10
    assert found.finding.what == "slow did not end within 0.1 s" and found.finding.severity == "unknown"
    done.set()
