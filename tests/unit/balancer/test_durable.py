"""Files that are whole: on a full disk, after a death at any step, when the writer changes its mind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from balancer.durable import replacing, write_durably
from tests.helpers.disk import fill, small_disk
from tests.helpers.dying import dies_at

OLD, NEW = b"old" * 10_000, b"new" * 20_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 128) as folder:
        yield folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_written_and_written_again(tmp_path: Path) -> None:
    for data in (OLD, NEW, b""):
        write_durably(tmp_path / "file", data)
        assert (tmp_path / "file").read_bytes() == data and names(tmp_path) == ["file"]


def test_full_disk(disk: Path) -> None:
    """What was there stays, and nothing is left beside it; with room it goes on."""
    write_durably(disk / "file", OLD)
    fill(disk)
    with pytest.raises(OSError, match="No space left"):
        write_durably(disk / "file", NEW)
    assert (disk / "file").read_bytes() == OLD and names(disk) == ["file", "filler"]
    (disk / "filler").unlink()
    write_durably(disk / "file", NEW)
    assert (disk / "file").read_bytes() == NEW and names(disk) == ["file"]


def test_killed_at_each_step(tmp_path: Path) -> None:
    """The old content or the new one, and the next write is not in the way of what is left."""
    path, seen = tmp_path / "file", set()
    for step in range(1, 50):
        write_durably(path, OLD)
        if not dies_at(step, lambda: write_durably(path, NEW)):
            assert step > 8, "nothing was interrupted"
            assert seen == {OLD, NEW} and path.read_bytes() == NEW
            return
        seen.add(path.read_bytes())
        assert seen <= {OLD, NEW}
    raise AssertionError("never came to an end")


def test_writer_that_changes_its_mind(tmp_path: Path) -> None:
    write_durably(tmp_path / "file", OLD)
    with pytest.raises(KeyError), replacing(tmp_path / "file") as stream:
        stream.write(NEW)
        raise KeyError
    assert (tmp_path / "file").read_bytes() == OLD and names(tmp_path) == ["file"]


def test_what_lies_in_the_way(tmp_path: Path) -> None:
    """A left-over is thrown away, a link is not followed, a folder is an error."""
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (tmp_path / "file.new").symlink_to(tmp_path / "elsewhere")
    write_durably(tmp_path / "file", NEW)
    assert (tmp_path / "elsewhere").read_bytes() == b"mine" and (tmp_path / "file").read_bytes() == NEW
    (tmp_path / "file.new").mkdir()
    with pytest.raises(OSError):
        write_durably(tmp_path / "file", OLD)
    assert (tmp_path / "file").read_bytes() == NEW
    with pytest.raises(OSError):
        write_durably(tmp_path / "no folder" / "file", OLD)


def test_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    for owner, name in ((os, "fsync"), (Path, "replace")):
        def told(*args: object, _call: object = getattr(owner, name), _name: str = name) -> object:
            order.append(_name)
            assert callable(_call)
            return _call(*args)

        monkeypatch.setattr(owner, name, told)
    write_durably(tmp_path / "file", NEW)
    assert order == ["fsync", "replace", "fsync"], "the file, its name, the folder"
