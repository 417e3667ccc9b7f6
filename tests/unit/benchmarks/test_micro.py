"""The micro-benchmarks measure every scheduler, and hold 64 and 256 servers to their bars."""

from __future__ import annotations

import pytest

from balancer.schedule import SCHEDULERS
from benchmarks import micro
from benchmarks.lab import open_lab
from benchmarks.udp import Options


def test_every_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(micro, "WINDOWS", 2)
    monkeypatch.setattr(micro, "PER_WINDOW", 100)
    monkeypatch.setattr(micro, "IN_FLIGHT", (10,))
    with open_lab() as lab:
        run = micro.micro(lab, Options())
    bars = {goal.row: (goal.bar, goal.aim) for goal in run.goals}
    for name in SCHEDULERS:
        assert bars[f"{name}, 2 servers: a pick"] == ("-", "")
        assert bars[f"{name}, 64 servers: a pick"] == ("≤ 100 ns", "50 ns")
        assert bars[f"{name}, 256 servers: a pick"] == ("≤ 400 ns", "200 ns")
    assert len(bars) == 3 * len(SCHEDULERS) + 1
    assert all(ns > 0 for detail in run.details for ns in detail["ns"])
    assert "wlc, 64 servers" in capsys.readouterr().out
