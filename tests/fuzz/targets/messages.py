"""Whatever a datagram holds, `decode` returns a message that survives the way back, or raises ProtocolError."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator

from balancer.errors import ProtocolError
from balancer.process.messages import KINDS, decode, encode

SEEDS = (
    *(json.dumps([name, *range(len(kind._fields))]).encode() for name, kind in KINDS.items()),
    b'["Admit", 0, [[0, 340282366920938463463374607431768211455]], [], [], []]',
    b'["Reach", 0, 255, true]', b"[]", b"{}", b'"Go"', b'[["Go"]]', b'["Go", null]', b"[" * 3000,
)


def check(data: bytes) -> None:
    try:
        message = decode(data)
    except ProtocolError:
        return
    assert type(message) in KINDS.values()
    with contextlib.suppress(ProtocolError):        # escapes may make it longer than a datagram
        again = encode(message)
        assert encode(decode(again)) == again


@contextlib.contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    yield check
