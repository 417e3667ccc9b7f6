"""/proc's texts, and CPU between two readings."""

from __future__ import annotations

import os

from benchmarks import meter
from benchmarks.meter import TICK_NS, Used, cpu_between


def test_stat_with_a_name_that_looks_like_fields() -> None:
    fields = ["S", "7", *["0"] * 9, "120", "30", *["0"] * 6, "991", "0"]
    assert meter.parse_stat("42 (a) b (c)) " + " ".join(fields)) == meter.Stat(7, 150, 991)


def test_schedstat() -> None:
    assert meter.parse_schedstat("58461 210802 2\n") == 58461


def test_kilobytes() -> None:
    text = "5600-7ffe ---p 0 00:00 0 [rollup]\nRss:  1284 kB\nPss_Shmem:  4 kB\nThreads: 3\nVmRSS:\t 20 kB\n"
    assert meter.parse_kilobytes(text) == {"Rss": 1284 * 1024, "Pss_Shmem": 4096, "VmRSS": 20480}


def used(ms: int) -> Used:
    return Used(ms * 1_000_000, ms * 1_000_000, ms * 1_000_000)


def test_all_processes_count() -> None:
    cpu = cpu_between({1: used(10), 2: used(100)}, {1: used(15), 2: used(400)})
    assert (cpu.clock, cpu.came, cpu.went, cpu.doubt()) == (305_000_000, 0, 0, None)


def test_a_process_that_came_counts_whole_and_is_told() -> None:
    cpu = cpu_between({1: used(10), 2: used(100)}, {1: used(10), 3: used(40)})
    assert (cpu.clock, cpu.came, cpu.went) == (40_000_000, 1, 1)
    assert cpu.doubt() is not None


def test_clocks_that_disagree_are_told() -> None:
    second = 1_000_000_000
    ended_thread = cpu_between({1: used(0)}, {1: Used(second, second // 2, second)})
    assert "schedstat" in (ended_thread.doubt() or "")
    ticks = cpu_between({1: used(0)}, {1: Used(second, second, second - 3 * TICK_NS)})
    assert ticks.doubt() is None


def test_own_process_is_read() -> None:
    pid = os.getpid()
    assert meter.tree(pid)[0] == pid
    assert meter.cpu_of_tree(pid)[pid].clock > 0
    assert meter.resident(pid) > 1 << 20
    assert meter.memory(pid).rss > 1 << 20
    assert meter.start_time(pid) is not None


def test_a_process_that_is_gone_is_nothing() -> None:
    gone = 2**22 + 1  # above the greatest pid Linux gives
    assert meter.start_time(gone) is None
    assert meter.cpu_of_tree(gone) == {}
    assert meter.resident(gone) == 0
