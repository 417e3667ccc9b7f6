"""DNS messages as bytes: what a test sends, and what a hostile name server answers. Pure.

dnspython makes well-formed messages in `client.py`; here every field may be wrong (RFC 1035 §4.1).
"""

from __future__ import annotations

import random
import struct

QR, AA, TC, RD, RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
OPCODES = {"QUERY": 0, "STATUS": 2, "NOTIFY": 4, "UPDATE": 5}
TYPES = {"A": 1, "NS": 2, "SOA": 6, "TXT": 16, "AAAA": 28, "IXFR": 251, "AXFR": 252, "ANY": 255}
RCODES = {"NOERROR": 0, "FORMERR": 1, "SERVFAIL": 2, "NXDOMAIN": 3, "NOTIMP": 4, "REFUSED": 5}
HEADER = 12


def name(text: str) -> bytes:
    """A domain name in wire format."""
    labels = [label.encode() for label in text.rstrip(".").split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def header(ident: int, flags: int = RD, counts: tuple[int, int, int, int] = (1, 0, 0, 0)) -> bytes:
    return struct.pack("!HH4H", ident, flags, *counts)


def question(qname: str = "www.example", qtype: str = "A", qclass: int = 1) -> bytes:
    return name(qname) + struct.pack("!HH", TYPES[qtype], qclass)


def query(
    qname: str = "www.example",
    qtype: str = "A",
    *,
    ident: int | None = None,
    opcode: str = "QUERY",
    flags: int = RD,
    qclass: int = 1,
) -> bytes:
    """A query with one question; a random id unless told."""
    number = random.getrandbits(16) if ident is None else ident
    return header(number, flags | OPCODES[opcode] << 11) + question(qname, qtype, qclass)


def ident(message: bytes) -> int:
    return int.from_bytes(message[:2], "big")


def with_id(message: bytes, number: int) -> bytes:
    return number.to_bytes(2, "big") + message[2:]


def flags(message: bytes) -> int:
    return int.from_bytes(message[2:4], "big")


def rcode(message: bytes) -> int:
    return flags(message) & 0x000F


def question_end(message: bytes) -> int:
    """Offset behind the first question (of a message we made ourselves: no compression)."""
    at = HEADER
    while message[at]:
        at += 1 + message[at]
    return at + 5


def qname(message: bytes) -> str:
    """The first question's name."""
    at, labels = HEADER, []
    while message[at]:
        labels.append(message[at + 1 : at + 1 + message[at]].decode("latin-1"))
        at += 1 + message[at]
    return ".".join(labels)


def address_record(address: str = "192.0.2.1") -> bytes:
    """An A record for the name in the question."""
    return struct.pack("!HHHIH4B", 0xC00C, 1, 1, 60, 4, *(int(part) for part in address.split(".")))


def filler_record(length: int) -> bytes:
    """A NULL record (RFC 1035 §3.3.10) with `length` bytes of data."""
    return struct.pack("!HHHIH", 0xC00C, 10, 1, 60, length) + random.randbytes(length)


def answer(request: bytes, *records: bytes, flags_set: int = QR | AA, code: str = "NOERROR") -> bytes:
    """A well-formed answer to a query with one question: its header and question, then the records."""
    kept = flags(request) & (RD | 0x7800)
    counts = (1, len(records), 0, 0)
    head = header(ident(request), kept | flags_set | RCODES[code], counts)
    return head + request[HEADER : question_end(request)] + b"".join(records)


def sized_answer(request: bytes, size: int) -> bytes:
    """A well-formed answer of exactly `size` bytes."""
    empty = len(answer(request, filler_record(0)))
    return answer(request, filler_record(size - empty))


def header_only(request: bytes, code: str) -> bytes:
    """An answer without a question, as some servers write errors."""
    return header(ident(request), QR | RCODES[code], (0, 0, 0, 0))
