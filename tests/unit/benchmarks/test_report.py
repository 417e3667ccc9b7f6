"""Medians, pairwise ratios, tables, goals, shares."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import report, shares
from benchmarks.goals import Bar
from benchmarks.lab import LabError
from benchmarks.report import Goal, Spread, at_least, at_most, ratios, spread, told
from benchmarks.shares import share_error
from benchmarks.udp import Options, comparison_goals, pace_doubt, rotate


def test_spread() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert spread([]) is None
    assert Spread(2.0, 2.0, 2.001).text() == "2.00"
    assert Spread(1234.5, 1000.0, 2000.0).text(0) == "1,234 (1,000\u20132,000)"


def test_ratios_pair_the_rounds() -> None:
    # The machine was twice as slow in round 1: the ratio does not see it.
    assert ratios({0: 5.0, 1: 10.0, 2: 5.0}, {0: 10.0, 1: 20.0, 3: 1.0}) == Spread(0.5, 0.5, 0.5)
    assert ratios({0: 5.0}, {1: 5.0}) is None
    assert ratios({0: 5.0}, {0: 0.0}) is None


def test_table() -> None:
    text = report.table(["peer", "qps"], [["a", "10"], ["longer", "1,000"]])
    assert text.splitlines() == ["peer      qps", "------  -----", "a          10", "longer  1,000"]


def test_goals() -> None:
    assert at_most("r", 0.5, 1.0) == Goal("r", "0.50", "≤ 1", True)
    assert at_most("r", 1.01, 1.0).met is False
    assert at_least("r", 1.0, 1.0).met is True
    assert at_most("r", None, 1.0) == Goal("r", "not measured", "≤ 1", None)
    lines = report.goals_table([at_most("a", None, 1), at_most("b", 2, 1), told("c", "3")]).splitlines()
    assert [line.split()[-1] for line in lines[2:]] == ["?", "NO", "-"]


def test_the_aim_stands_beside_the_bar() -> None:
    goal = at_most("r", 0.55, Bar(0.6, 0.5), " s")
    assert goal == Goal("r", "0.55 s", "≤ 0.6 s", True, "0.5 s")
    assert at_least("r", 1.5, Bar(1.4, 1.8)) == Goal("r", "1.50", "≥ 1.4", True, "1.8")
    head, _, line = report.goals_table([goal]).splitlines()
    assert head.split() == ["row", "figure", "bar", "aim", "met"]
    assert line.split() == ["r", "0.55", "s", "≤", "0.6", "s", "0.5", "s", "yes"]


@pytest.mark.parametrize(
    ("weights", "scheduler", "load", "percent"),
    [
        ((1, 1), "wlc", "one at a time", 1.0),
        ((1, 2, 3), "wlc", "100 qps", 2.0),
        ((1, 1), "wlc", "saturation", 5.0),
        ((1, 2, 3), "wrr", "saturation", 1.0),
    ],
)
def test_bars_of_the_shares(weights: tuple[int, ...], scheduler: str, load: str, percent: float) -> None:
    assert shares.bar(weights, scheduler, load) == percent


def test_paced_runs_have_the_bar_of_their_rate() -> None:
    def goals_at(rate: int) -> list[Goal]:
        return comparison_goals([], Options(rates=(rate,)))

    assert [(g.bar, g.aim) for g in goals_at(0)] == [("≤ 0.6", "0.5"), ("≥ 1.4", "1.8"), ("≤ 0", "")]
    assert [(g.bar, g.aim) for g in goals_at(20_000)] == [("≤ 0.85", "0.6"), ("≤ 0", "")]
    assert [g.bar for g in goals_at(10_000)] == ["-", "≤ 0"]


def test_cpuinfo() -> None:
    assert report.parse_cpuinfo("processor : 0\nmodel name\t: Some CPU @ 2.8GHz\n") == "Some CPU @ 2.8GHz"
    assert report.parse_cpuinfo("") != ""


def test_saved_file_holds_everything(tmp_path: Path) -> None:
    path = report.save(
        "udp", {"cores": 2}, {"rounds": 3}, {"rounds": [1]}, [told("r", "f")], tmp_path / "r.json"
    )
    whole = json.loads(path.read_text())
    assert whole["machine"] == {"cores": 2}
    assert whole["rounds"] == [1]
    assert whole["goals"][0]["row"] == "r"


@pytest.mark.parametrize(
    ("counts", "weights", "error"),
    [
        ((50, 50), (1, 1), 0.0),
        ((10, 20, 30), (1, 2, 3), 0.0),
        ((60, 40), (1, 1), 20.0),
        ((0, 100), (1, 1), 100.0),
    ],
)
def test_share_error(counts: tuple[int, ...], weights: tuple[int, ...], error: float) -> None:
    assert share_error(counts, weights) == pytest.approx(error)


def test_no_queries_is_no_share() -> None:
    with pytest.raises(LabError):
        share_error([0, 0], [1, 1])


def test_rounds_begin_with_another_peer() -> None:
    assert [rotate(["a", "b", "c"], n)[0] for n in range(4)] == ["a", "b", "c", "a"]
    assert sorted(rotate(["a", "b", "c"], 2)) == ["a", "b", "c"]
    assert rotate([], 1) == []


def test_a_pace_not_held_is_told() -> None:
    assert pace_doubt(0, 5.0) is None
    assert pace_doubt(10_000, 9_999.0) is None
    assert pace_doubt(10_000, 9_000.0) == "only 9,000 of 10,000 qps"
