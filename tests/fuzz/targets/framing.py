"""However a TCP stream is cut into pieces, its messages are those of RFC 1035 §4.2.2, up to what can be none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from balancer.datapath.framing import Reader
from tests.fuzz.reading import Choices
from tests.helpers import wire

_FRAME = b"\0\x1f" + wire.query("www.example", ident=7).ljust(31, b"\0")
# Sixteen sizes of pieces, taken in turn (0: all that is left), then the stream.
SEEDS = (
    bytes(16) + _FRAME * 3, b"\1" * 16 + _FRAME * 2, bytes(range(16)) + _FRAME + b"\0\x0b" + bytes(11) + _FRAME,
    b"\x21" * 16 + _FRAME * 2 + _FRAME[:5], b"\2" * 16 + b"\xff\xff" + bytes(300), b"\0" * 16 + b"\0\0" + _FRAME,
)


def plain(stream: bytes) -> tuple[list[bytes], bool, int]:
    """The messages, whether something came that is none, and how many bytes are unfinished."""
    messages, at = [], 0
    while len(stream) - at >= 2:
        size = int.from_bytes(stream[at:at + 2], "big")
        if size < 12:
            return messages, True, 0
        if len(stream) - at < 2 + size:
            break
        messages.append(stream[at + 2:at + 2 + size])
        at += 2 + size
    return messages, False, len(stream) - at


def check(data: bytes) -> None:
    sizes, stream = data[:16] or b"\0", Choices(data[16:])
    reader, found, turn = Reader(), [], 0
    while stream:
        found += reader.feed(stream.bytes(sizes[turn % len(sizes)] or 65536))
        turn += 1
    assert (found, reader.broken, reader.kept) == plain(data[16:])


@contextlib.contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    yield check
