"""Files that are whole whatever happens: written beside, forced to the disk, put in place by rename. Any process.

Whenever the process or the host dies, the file is the old one or the new one. What may be left is PATH.new; the next
write throws it away. Blocks for the disk.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PART = ".new"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends; if it raises, or the disk does not take it
    (OSError), nothing has changed and nothing is left. One writer per path at a time."""
    part = path.with_name(path.name + PART)
    part.unlink(missing_ok=True)
    stream = part.open("xb")
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    sync_folder(path.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Put `data` there in one step and for good; OSError when that cannot be, and then nothing has changed."""
    with replacing(path) as stream:
        stream.write(data)


def sync_folder(path: Path) -> None:
    """Force to the disk which names are in a folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
