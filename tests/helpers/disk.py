"""A disk of a few pages, to be filled."""

from __future__ import annotations

import contextlib
import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.need import missing, require_root


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int = 64) -> Iterator[Path]:
    """A file system of its own (tmpfs) at `folder`, which is made."""
    require_root("a small file system")
    folder.mkdir()
    if not _ends_well("mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)):
        missing("no file system can be mounted here")
    try:
        yield folder
    finally:
        _ends_well("umount", str(folder))


def fill(folder: Path) -> None:
    """Leave no room there."""
    with (folder / "filler").open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while stream.write(bytes(4096)):
            pass
    try:
        (folder / "one more").write_bytes(b"x")
    except OSError as error:
        assert error.errno == errno.ENOSPC
        (folder / "one more").unlink()
    else:
        raise AssertionError("there is still room")


def _ends_well(*argv: str) -> bool:
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0
