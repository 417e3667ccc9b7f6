"""What a probe asks, and what an answer is worth. Pure: bytes in, an opinion out; messages by dnspython.

Whatever a server sends is hostile input: an answer that is no DNS message, too long, or not what it should be is an
opinion with a reason, never an exception. An answer that was read once is recognised by its bytes.
"""

from __future__ import annotations

from typing import NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype

from health.verdict import Severity

PAYLOAD = 1232              # bytes, of the EDNS option
MOST_BYTES = 16384          # of an answer: reading more would take this process's time
KNOWN = 64                  # answers that are recognised, per question
HEADER = 12
QR, AA, TC, RA = 0x8000, 0x0400, 0x0200, 0x0080


class Opinion(NamedTuple):
    """What an answer is worth: reason "" is well; serial: of the zone, where there is one. ra: recursion is offered."""

    reason: str = ""
    serial: int | None = None
    severity: Severity = Severity.NONE
    ra: bool = False


class Expected(NamedTuple):
    """What the answer shall be. rcode None: any; answers: rdata texts that must all be there."""

    rcode: int | None = dns.rcode.NOERROR
    authoritative: bool = False
    soa: bool = False
    answers: frozenset[str] = frozenset()


class Question:
    """One question. zone: the name as the operator knows it. Raises ValueError for a name or type that is none."""

    def __init__(self, name: str, kind: str, expected: Expected, recursion: bool = False) -> None:
        try:
            message = dns.message.make_query(name, kind, use_edns=0, payload=PAYLOAD, id=0,
                                             flags=dns.flags.RD if recursion else 0)
        except dns.exception.DNSException as error:
            raise ValueError(f"{name} {kind}: {error}") from None
        self.name, self.kind, self.expected = name, kind, expected
        self._name, self._kind = message.question[0].name, message.question[0].rdtype
        self._rest = message.to_wire()[2:]
        self._asked = self._rest[HEADER - 2:HEADER + len(self._name.to_wire() or b"") + 2]
        self._known: dict[bytes, Opinion] = {}

    def wire(self, ident: int) -> bytes:
        """The query with this id."""
        return ident.to_bytes(2, "big") + self._rest

    def belongs(self, data: bytes, ident: int) -> bool:
        """Whether this is an answer to `wire(ident)`: id, QR and question. An error may come without a question."""
        if len(data) < HEADER or data[:2] != ident.to_bytes(2, "big") or not data[2] & 0x80:
            return False
        if data[4:6] == b"\0\0":
            return data[3] & 15 != 0
        return data[4:6] == b"\0\1" and data[HEADER:HEADER + len(self._asked)].lower() == self._asked.lower()

    def judge(self, data: bytes) -> Opinion:
        """What an answer that belongs to this question is worth."""
        rest = data[2:]
        opinion = self._known.get(rest)
        if opinion is None:
            opinion = self._read(data)
            if len(self._known) >= KNOWN:
                self._known.clear()
            self._known[rest] = opinion
        return opinion

    def _read(self, data: bytes) -> Opinion:
        flags = int.from_bytes(data[2:4], "big")
        ra = bool(flags & RA)
        if len(data) > MOST_BYTES:
            return self._wrong(f"an answer of {len(data)} bytes", ra)
        wanted = self.expected
        if wanted.rcode is not None and flags & 15 != wanted.rcode and flags & 15 != 15:
            return self._wrong(dns.rcode.to_text(dns.rcode.Rcode(flags & 15)), ra)
        try:
            message = dns.message.from_wire(data, ignore_trailing=True)
        except (dns.exception.DNSException, ValueError, IndexError) as error:
            return self._wrong(f"an answer that is no DNS message ({type(error).__name__})", ra)
        if wanted.rcode is not None and message.rcode() != wanted.rcode:
            return self._wrong(dns.rcode.to_text(message.rcode()), ra)
        if wanted.authoritative and not flags & AA:
            return self._wrong("not authoritative", ra)
        found = [rrset for rrset in message.answer
                 if rrset.rdtype == self._kind and rrset.rdclass == dns.rdataclass.IN]
        if wanted.soa:
            own = [rrset for rrset in found if rrset.name == self._name]
            if not own:
                return self._wrong("a truncated answer" if flags & TC else "no SOA in the answer", ra)
            return Opinion(serial=int(own[0][0].serial), ra=ra)
        missing = wanted.answers - {rdata.to_text() for rrset in found for rdata in rrset}
        if missing:
            return self._wrong(f"no {min(missing)} in the answer", ra)
        return Opinion(ra=ra)

    def _wrong(self, what: str, ra: bool) -> Opinion:
        return Opinion(f"{self}: {what}", severity=Severity.WRONG, ra=ra)

    def __str__(self) -> str:
        return f"{self.name} {self.kind}"


def soa(zone: str) -> Question:
    """The SOA of a zone, with authority."""
    return Question(zone, "SOA", Expected(authoritative=True, soa=True))


def alive() -> Question:
    """Anything at all: for who is told of no zone."""
    return Question(".", "SOA", Expected(rcode=None))


def foreign() -> Question:
    """A name that is nobody's here, with recursion desired: who resolves it is an open resolver to us."""
    return Question("example.com", "A", Expected(rcode=None), recursion=True)
