"""What answers are worth: good ones, wrong ones, and whatever a hostile server sends."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from health.question import MOST_BYTES, Expected, Question, alive, foreign, soa
from health.verdict import Severity

ZONE = "example.com"
SOA = (ZONE, 300, "IN", "SOA", "ns.example.com. hostmaster.example.com. 2024010105 3600 900 604800 300")


def answer(question: Question, *records: tuple[str, int, str, str, str], rcode: int = 0,
           flags: int = dns.flags.QR | dns.flags.AA, ident: int = 7) -> bytes:
    message = dns.message.from_wire(question.wire(ident))
    message.flags = dns.flags.Flag(flags)
    message.set_rcode(dns.rcode.Rcode(rcode))
    message.answer = [dns.rrset.from_text(f"{name}.", *rest) for name, *rest in records]
    return message.to_wire(max_size=65535)


def test_the_query_is_what_a_server_expects() -> None:
    message = dns.message.from_wire(soa(ZONE).wire(4711))
    assert (message.id, str(message.question[0].name), message.edns, message.payload) == (4711, ZONE + ".", 0, 1232)
    assert not message.flags & dns.flags.RD
    assert dns.message.from_wire(foreign().wire(1)).flags & dns.flags.RD


def test_a_good_answer_has_a_serial() -> None:
    question = soa(ZONE)
    data = answer(question, SOA)
    assert question.belongs(data, 7) and question.judge(data) == question.judge(data)
    assert (question.judge(data).reason, question.judge(data).serial) == ("", 2024010105)


@pytest.mark.parametrize(("records", "rcode", "flags", "reason"), [
    ([], dns.rcode.REFUSED, dns.flags.QR, "REFUSED"),
    ([SOA], dns.rcode.SERVFAIL, dns.flags.QR | dns.flags.AA, "SERVFAIL"),
    ([SOA], dns.rcode.BADVERS, dns.flags.QR | dns.flags.AA, "BADVERS"),
    ([SOA], 0, dns.flags.QR, "not authoritative"),
    ([], 0, dns.flags.QR | dns.flags.AA, "no SOA in the answer"),
    ([], 0, dns.flags.QR | dns.flags.AA | dns.flags.TC, "a truncated answer"),
    ([("other.example", 300, "IN", *SOA[3:])], 0, dns.flags.QR | dns.flags.AA, "no SOA in the answer"),
    ([(ZONE, 300, "IN", "CNAME", "other.example.")], 0, dns.flags.QR | dns.flags.AA, "no SOA in the answer"),
])
def test_a_wrong_answer_has_a_reason(records: list[tuple[str, int, str, str, str]], rcode: int, flags: int,
                                     reason: str) -> None:
    question = soa(ZONE)
    opinion = question.judge(answer(question, *records, rcode=rcode, flags=flags))
    assert opinion.reason == f"{ZONE} SOA: {reason}" and opinion.severity is Severity.WRONG and opinion.serial is None


def test_checks() -> None:
    question = Question("www.example.com", "A", Expected(answers=frozenset({"192.0.2.1", "192.0.2.2"})))
    both = ("www.example.com", 300, "IN", "A", "192.0.2.1"), ("www.example.com", 300, "IN", "A", "192.0.2.2")
    assert question.judge(answer(question, *both, flags=dns.flags.QR)).reason == ""
    assert question.judge(answer(question, both[0])).reason == "www.example.com A: no 192.0.2.2 in the answer"
    nothing = Question("no.example.com", "A", Expected(rcode=dns.rcode.NXDOMAIN))
    assert nothing.judge(answer(nothing, rcode=dns.rcode.NXDOMAIN)).reason == ""
    assert nothing.judge(answer(nothing)).reason == "no.example.com A: NOERROR"
    assert alive().judge(answer(alive(), rcode=dns.rcode.REFUSED, flags=dns.flags.QR)).reason == ""
    assert foreign().judge(answer(foreign(), flags=dns.flags.QR | dns.flags.RA)).ra


def test_what_does_not_belong() -> None:
    question = soa(ZONE)
    data = answer(question, SOA)
    assert not question.belongs(data, 8), "another id"
    assert not question.belongs(question.wire(7), 7), "a query"
    assert not soa("example.org").belongs(data, 7), "another question"
    assert not Question(ZONE, "NS", Expected()).belongs(data, 7), "another type"
    assert not question.belongs(data[:11], 7)
    assert question.belongs(data.replace(b"example", b"eXaMpLe"), 7), "names have no case"
    bare = data[:2] + b"\x80\x01" + bytes(8)
    assert question.belongs(bare, 7) and question.judge(bare).reason.endswith("FORMERR")
    assert not question.belongs(data[:2] + b"\x80\x00" + bytes(8), 7), "no error and no question"


def test_huge_and_cut_short() -> None:
    question = soa(ZONE)
    data = answer(question, SOA)
    assert "an answer of" in question.judge(data.ljust(MOST_BYTES + 1, b"\0")).reason
    for size in range(12, len(data)):
        assert question.judge(data[:size]).reason


def test_wrong_names_are_told() -> None:
    with pytest.raises(ValueError, match="nosuchtype"):
        Question(ZONE, "nosuchtype", Expected())


@given(st.binary(min_size=12, max_size=600))
def test_garbage_is_an_opinion(data: bytes) -> None:
    for question in (soa(ZONE), alive(), Question("www.example.com", "A", Expected())):
        question.belongs(data, 7)
        assert isinstance(question.judge(data).reason, str)
