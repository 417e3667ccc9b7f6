"""Whatever a probed server answers, it is an opinion with a reason or a serial, never an exception."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import dns.message
import dns.rrset

from health.question import Expected, Question, alive, soa
from health.verdict import Severity

QUESTIONS = (soa("a.example"), Question("www.a.example", "TXT", Expected(answers=frozenset({'"x"'}))), alive())


def _answer(question: Question, *records: tuple[str, int, str, str, str]) -> bytes:
    message = dns.message.make_response(dns.message.from_wire(question.wire(7)))
    message.flags |= dns.flags.AA
    message.answer = [dns.rrset.from_text(f"{name}.", *rest) for name, *rest in records]
    return message.to_wire(max_size=65535)


SEEDS = (
    _answer(QUESTIONS[0], ("a.example", 1, "IN", "SOA", "ns. h. 1 2 3 4 5")), _answer(QUESTIONS[2]),
    _answer(QUESTIONS[1], ("www.a.example", 1, "IN", "TXT", '"x"'), ("b.example", 1, "IN", "CNAME", "www.a.example.")),
    _answer(QUESTIONS[0])[:2] + b"\x84\x00\x00\x01\x00\x01" + bytes(4) + b"\x01a\x07example\0\0\6\0\1\xc0\x0c\0\6\0\1",
    QUESTIONS[0].wire(7),
)


def check(data: bytes) -> None:
    for question in QUESTIONS:
        mine = question.belongs(data, 7)
        if len(data) < 12:
            assert not mine
            continue
        opinion = question.judge(data)
        assert (opinion.severity is Severity.NONE) == (opinion.reason == "")
        assert opinion.reason == "" or opinion.serial is None
        assert opinion.reason.isprintable()


@contextlib.contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    yield check
