"""What a process tree has used: CPU in nanoseconds and memory, read from /proc and the process clocks.

Three CPU figures are kept, because each has a hole:
  clock      the kernel's CPU-time clock of the process: nanoseconds, all threads, also those that ended;
             the figure that is reported.
  schedstat  first field of /proc/PID/task/*/schedstat: nanoseconds, living threads only.
  ticks      utime+stime of /proc/PID/stat: all threads, but 10 ms steps.
They must agree; `Cpu.doubt` says when they do not, or when a process came or went in between.
The parsers are pure; tests feed them text.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Stat(NamedTuple):
    """The fields of /proc/PID/stat that matter here."""

    parent: int
    ticks: int
    started: int


def parse_stat(text: str) -> Stat:
    """Read /proc/PID/stat; the name in parentheses may itself hold spaces and parentheses."""
    fields = text[text.rindex(")") + 2 :].split()
    return Stat(parent=int(fields[1]), ticks=int(fields[11]) + int(fields[12]), started=int(fields[19]))


def parse_schedstat(text: str) -> int:
    """Nanoseconds on the CPU: the first field of a schedstat file."""
    return int(text.split()[0])


def parse_kilobytes(text: str) -> dict[str, int]:
    """`Name:   123 kB` lines of /proc/PID/status or smaps_rollup, in bytes."""
    sizes: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[1] == "kB" and words[0].isdigit():
            sizes[name.strip()] = int(words[0]) * 1024
    return sizes


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def _stat(pid: int) -> Stat | None:
    text = _read(PROC / str(pid) / "stat")
    return parse_stat(text) if text else None


def start_time(pid: int) -> int | None:
    """Start of the process in ticks since boot, None when there is none: (pid, start) is unique."""
    stat = _stat(pid)
    return stat.started if stat else None


def tree(root: int) -> list[int]:
    """The process and all its descendants, the root first."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))):
            children.setdefault(stat.parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def leaves(root: int) -> list[int]:
    """The processes of the tree that have no children: the workers of a master/worker program."""
    members = tree(root)
    parents = {stat.parent for pid in members if (stat := _stat(pid))}
    return [pid for pid in members if pid not in parents]


class Used(NamedTuple):
    """CPU used by one process since its start, by each of the three ways (ns)."""

    clock: int
    schedstat: int
    ticks: int


def _used(pid: int) -> Used | None:
    stat = _stat(pid)
    if stat is None:
        return None
    try:
        # The CPU clock id of another process: see clock_getcpuclockid(3).
        clock = time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return None
    texts = [_read(task / "schedstat") for task in (PROC / str(pid) / "task").iterdir()]
    return Used(clock, sum(parse_schedstat(text) for text in texts if text), stat.ticks * TICK_NS)


def cpu_of_tree(root: int) -> dict[int, Used]:
    """CPU of every process of the tree now."""
    return {pid: used for pid in tree(root) if (used := _used(pid))}


@dataclass(frozen=True)
class Cpu:
    """CPU of a process tree between two readings (ns), and the processes that came or went."""

    clock: int
    schedstat: int
    ticks: int
    came: int
    went: int

    def doubt(self) -> str | None:
        """Why this figure should not be believed, or None."""
        if self.came or self.went:
            return f"{self.came} processes started and {self.went} ended during the measurement"
        slack = 4 * TICK_NS + self.clock // 50
        if abs(self.clock - self.ticks) > slack:
            return f"CPU clock says {self.clock} ns, utime+stime {self.ticks} ns"
        if abs(self.clock - self.schedstat) > slack:
            return f"CPU clock says {self.clock} ns, schedstat {self.schedstat} ns"
        return None


def cpu_between(before: dict[int, Used], after: dict[int, Used]) -> Cpu:
    """CPU used between two readings; a process that went takes its last part with it, and is counted."""
    zero = Used(0, 0, 0)
    pairs = [(before.get(pid, zero), used) for pid, used in after.items()]
    return Cpu(
        clock=sum(b.clock - a.clock for a, b in pairs),
        schedstat=sum(b.schedstat - a.schedstat for a, b in pairs),
        ticks=sum(b.ticks - a.ticks for a, b in pairs),
        came=len(after.keys() - before.keys()),
        went=len(before.keys() - after.keys()),
    )


def resident(pid: int) -> int:
    """VmRSS in bytes, 0 for a process that is gone."""
    return parse_kilobytes(_read(PROC / str(pid) / "status") or "").get("VmRSS", 0)


@dataclass(frozen=True)
class Memory:
    """Memory of one process (bytes). Pages of a memfd count in rss, pss and shmem."""

    rss: int
    pss: int
    shmem: int


def memory(pid: int) -> Memory:
    """Read smaps_rollup."""
    sizes = parse_kilobytes(_read(PROC / str(pid) / "smaps_rollup") or "")
    return Memory(sizes.get("Rss", 0), sizes.get("Pss", 0), sizes.get("Pss_Shmem", 0))
