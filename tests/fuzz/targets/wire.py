"""Whatever the bytes, the wire parser reads none behind a message and says what RFC 1035 §4.1 says of its question."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from tests.fuzz import door
from tests.fuzz.reading import Choices
from tests.helpers import wire

_QUERY = wire.query("www.Example.com", "AAAA", ident=7)
_LONGEST = wire.header(1) + wire.name(".".join(["x" * 63] * 3 + ["y" * 61])) + b"\0\1\0\1"


def _pair(query: bytes, answer: bytes) -> bytes:
    return len(query).to_bytes(2, "big") + query + answer


SEEDS = (
    _pair(_QUERY, wire.answer(_QUERY, wire.address_record())),
    _pair(_QUERY, wire.answer(_QUERY.replace(b"Example", b"eXAMPLE"))),
    _pair(_QUERY, wire.header_only(_QUERY, "REFUSED")),
    _pair(_LONGEST, wire.answer(_LONGEST)),
    _pair(_QUERY[:2] + b"\0\0\0\2" + _QUERY[6:], _QUERY),
    _pair(wire.header(3, counts=(0, 0, 0, 0)), wire.header_only(_QUERY, "NOERROR")),
    _pair(wire.query("zone", "SOA", opcode="UPDATE"), wire.header_only(_QUERY, "NOERROR")),
    _pair(wire.header(9) + b"\xc0\x0c\0\1\0\1", b""),
)


def question(message: bytes) -> tuple[bytes, bytes] | None:
    """(name, type and class) of the first question, plainly read; None when there is none."""
    if len(message) < 12 or message[4:6] == b"\0\0":
        return None
    at = 12
    while True:
        label = message[at:at + 1]
        if not label or label[0] > 63:              # the end of the message, or a pointer
            return None
        at += 1 + label[0]
        if label == b"\0":
            break
    if at - 12 > 255 or at + 4 > len(message):
        return None
    return message[12:at].lower(), message[at:at + 4]


def length(found: tuple[bytes, bytes] | None) -> int:
    return 12 + len(found[0]) + 4 if found else 0


def fits(answer: bytes, query: bytes) -> bool:
    asked = question(query)
    if asked is None:
        return True
    if answer[4:6] == b"\0\0":
        return answer[3] & 15 in (1, 2, 4, 5) or query[2] >> 3 & 15 == wire.OPCODES["UPDATE"]
    return answer[4:6] == query[4:6] and question(answer) == asked


def check(data: bytes) -> None:
    choices = Choices(data)
    query, answer = choices.block(), choices.bytes(65536)
    ends = [door.question_end(message) for message in (query, answer)]
    assert ends == [length(question(message)) for message in (query, answer)]
    if ends[0] and len(answer) >= ends[0]:
        same = query[12:ends[0] - 4].lower() == answer[12:ends[0] - 4].lower()
        same = same and query[ends[0] - 4:ends[0]] == answer[ends[0] - 4:ends[0]]
        assert door.same_question(answer, query, ends[0]) == same
    if len(query) >= 12 and len(answer) >= 12:
        assert door.answers_question(answer, query, ends[0]) == fits(answer, query)


@contextlib.contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    yield check
