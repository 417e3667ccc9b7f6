"""What is told at the end: medians with their range, ratios by pairs, the goal rows, the JSON file.

Pure but for `machine` and `save`. Ratios are formed inside each round, where both peers met the same
neighbours, and only then the median is taken: on a shared machine a ratio of medians moves with the weather.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.goals import Bar
from benchmarks.lab import ROOT

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of the rounds."""

    median: float
    least: float
    greatest: float

    def text(self, digits: int = 2) -> str:
        def show(value: float) -> str:
            return f"{value:,.{digits}f}"

        if show(self.least) == show(self.greatest):
            return show(self.median)
        return f"{show(self.median)} ({show(self.least)}–{show(self.greatest)})"  # noqa: RUF001


def spread(values: Iterable[float]) -> Spread | None:
    """None for no values."""
    known = sorted(values)
    return Spread(statistics.median(known), known[0], known[-1]) if known else None


def ratios(own: Mapping[int, float], other: Mapping[int, float]) -> Spread | None:
    """own/other per round, over the rounds both have."""
    return spread(own[n] / other[n] for n in sorted(own.keys() & other.keys()) if other[n])


def median(value: Spread | None) -> float | None:
    return value.median if value else None


def show(value: Spread | None, digits: int = 2) -> str:
    return value.text(digits) if value else "-"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns: the first to the left, the others to the right."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    texts = []
    for line in lines:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True)),
        ]
        texts.append("  ".join(cells).rstrip())
    texts.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(texts)


@dataclass(frozen=True)
class Goal:
    """One row of the goal list as measured; `met` is None when it has no bar or could not be measured."""

    row: str
    figure: str
    bar: str
    met: bool | None
    aim: str = ""


def told(row: str, figure: str) -> Goal:
    """A row without a bar."""
    return Goal(row, figure, "-", None)


def at_most(row: str, value: float | None, bar: float | Bar, unit: str = "", digits: int = 2) -> Goal:
    limit = _bar(bar)
    return _held(row, value, limit, value is not None and value <= limit.bar, "≤", unit, digits)


def at_least(row: str, value: float | None, bar: float | Bar, unit: str = "", digits: int = 2) -> Goal:
    limit = _bar(bar)
    return _held(row, value, limit, value is not None and value >= limit.bar, "≥", unit, digits)


def _bar(bar: float | Bar) -> Bar:
    return bar if isinstance(bar, Bar) else Bar(bar)


def _held(row: str, value: float | None, limit: Bar, met: bool, sign: str, unit: str, digits: int) -> Goal:
    text = f"{sign} {limit.bar:g}{unit}"
    aim = f"{limit.aim:g}{unit}" if limit.aim is not None else ""
    if value is None:
        return Goal(row, "not measured", text, None, aim)
    return Goal(row, f"{value:.{digits}f}{unit}", text, met, aim)


def goals_table(goals: Iterable[Goal]) -> str:
    def word(goal: Goal) -> str:
        if goal.met is None:
            return "-" if goal.bar == "-" else "?"
        return "yes" if goal.met else "NO"

    return table(["row", "figure", "bar", "aim", "met"], [(g.row, g.figure, g.bar, g.aim, word(g)) for g in goals])


def parse_cpuinfo(text: str) -> str:
    """The CPU's model name in /proc/cpuinfo."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def _commit() -> str:
    try:
        argv = ["git", "describe", "--always", "--dirty"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, cwd=ROOT)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def machine(versions: Mapping[str, str]) -> dict[str, Any]:
    """What a reader must know about where and when the figures were taken."""
    return {
        "cpu": parse_cpuinfo(Path("/proc/cpuinfo").read_text()),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _commit(),
        "versions": {name: version for name, version in versions.items() if version},
        "load_average": os.getloadavg(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def save(
    case: str,
    facts: Mapping[str, Any],
    options: Mapping[str, Any],
    raw: Mapping[str, Any],
    goals: Sequence[Goal],
    path: Path | None,
) -> Path:
    """Write everything to one JSON file and return its path."""
    if path is None:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{case}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    whole = {"case": case, "machine": facts, "options": options, **raw, "goals": [asdict(g) for g in goals]}
    path.write_text(json.dumps(whole, indent=1, default=str) + "\n")
    return path
