"""The queue on disk: order, bounds, damage, and a death at every step."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.alert import spool as module
from balancer.alert.spool import Spool, read, write
from tests.helpers.dying import dies_at


def contents(spool: Spool) -> list[bytes]:
    """Everything, oldest first; empties the queue."""
    found = []
    while (head := spool.head()) is not None:
        found.append(head[1])
        spool.done(head[0])
    return found


def aside(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "aside").iterdir())


def test_order_is_that_of_the_numbers(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "q")
    for number in (5, 100, 20):
        spool.put(number, b"%d" % number, number == 20)
    assert len(spool) == 3
    assert contents(Spool(tmp_path / "q")) == [b"5", b"20", b"100"]
    assert contents(spool) == []
    assert len(Spool(tmp_path / "q")) == 0


def test_the_same_number_is_the_same_message(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "q")
    spool.put(5, b"once", False)
    spool.put(5, b"again", False)
    assert len(spool) == 1
    assert contents(spool) == [b"again"]


def test_done_twice(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "q")
    spool.put(1, b"x", False)
    head = spool.head()
    assert head is not None
    spool.done(head[0])
    spool.done(head[0])
    assert spool.head() is None


@pytest.mark.parametrize("harm", [lambda data: data[:-1], lambda data: b"", lambda data: data[:12] + b"?" + data[13:],
                                  lambda data: b"\xff" * 99])
def test_damaged_files_are_set_aside(tmp_path: Path, harm: object) -> None:
    assert callable(harm)
    spool = Spool(tmp_path)
    for number in (1, 2, 3):
        spool.put(number, b"message %d" % number, False)
    path = next(tmp_path.glob("*2.alert"))
    path.write_bytes(harm(path.read_bytes()))
    spool = Spool(tmp_path)
    assert contents(spool) == [b"message 1", b"message 3"]
    assert spool.damaged == 1
    assert aside(tmp_path) == [path.name]


def test_a_file_that_vanished(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put(1, b"a", False)
    spool.put(2, b"b", False)
    next(tmp_path.glob("*1.alert")).unlink()
    assert contents(spool) == [b"b"]


def test_set_aside_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ASIDE", 3)
    spool = Spool(tmp_path)
    for number in range(5):
        spool.put(number, b"", False)
        head = spool.head()
        assert head is not None
        spool.set_aside(head[0])
    assert [name[15] for name in aside(tmp_path)] == ["2", "3", "4"]
    assert len(spool) == 0


def test_full_of_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_MESSAGES", 4)
    spool = Spool(tmp_path)
    for number, is_information in enumerate([False, True, False, True, False, False, False]):
        spool.put(number, b"%d" % number, is_information)
    assert (spool.dropped, spool.dropped_total) == (3, 3)
    spool = Spool(tmp_path)
    assert spool.dropped == 3, "survives a restart, until it was told"
    assert contents(spool) == [b"2", b"4", b"5", b"6"], "first all information, then the oldest"
    spool.told_dropped(2)
    assert Spool(tmp_path).dropped == 1


def test_full_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    spool = Spool(tmp_path)
    for number in range(5):
        spool.put(number, b"%d" % number * 40, False)
    assert contents(spool) == [b"3" * 40, b"4" * 40]
    spool.put(9, b"x" * 1000, False)
    assert contents(spool) == [b"x" * 1000], "one always has room"


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    spool.put(1, b"on disk", False)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        spool.put(2, b"in memory", False)
    spool.put(3, b"on disk too", False)
    assert not list(tmp_path.glob("*.new"))
    assert contents(spool) == [b"on disk", b"in memory", b"on disk too"]


def test_no_folder_at_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    spool = Spool(tmp_path / "file" / "q")
    spool.put(1, b"kept in memory", False)
    assert contents(spool) == [b"kept in memory"]


def test_killed_at_each_step(tmp_path: Path) -> None:
    """Messages put before are whole; the one in the making is whole or not there; one that is done may be left."""
    for step in range(1, 100):
        folder = tmp_path / str(step)
        spool = Spool(folder)
        spool.put(1, b"one", False)
        spool.put(2, b"two", False)
        head = spool.head()
        assert head is not None
        first = head[0]

        def work(spool: Spool = spool, first: str = first) -> None:
            spool.put(3, b"three", False)
            spool.put(2, b"two, again", False)
            spool.done(first)

        died = dies_at(step, work)
        after = Spool(folder)
        found = contents(after)
        assert after.damaged == 0
        assert not list(folder.glob("*.new"))
        story = [[b"one", b"two"], [b"one", b"two", b"three"], [b"one", b"two, again", b"three"],
                 [b"two, again", b"three"]]
        assert found in story
        if not died:
            assert found == story[-1]
            assert step > 10, "nothing was interrupted"
            return
    raise AssertionError("never came to an end")


@given(st.binary(max_size=3000))
def test_what_is_written_is_read(data: bytes) -> None:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"ns7-spool-{os.getpid()}"
    try:
        write(path, data)
        assert read(path) == data
    finally:
        path.unlink()
