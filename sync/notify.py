"""What publisher and pullers say to each other: DNS messages (RFC 1996 NOTIFY, a TXT query), signed (RFC 8945 TSIG).

    publisher → puller   NOTIFY sync.ns7. SOA, with the generation in a TXT record    "there is something new"
    publisher → puller   QUERY  sync.ns7. TXT                                        "how are you?"; answer: JSON

No socket here. TSIG judges time by the system's clock and lets a message live for FUDGE seconds; within that time a
`Guard` remembers what it accepted, so a message counts once. What it refuses is counted by reason and told at most
once a minute: anybody can send anything to a UDP port.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.tsig

from balancer.namedconf import ConfError
from sync.manifest import ManifestError
from sync.namedconf import read_key
from sync.plan import REASONS as REASONS

NAME = dns.name.from_text("sync.ns7.")
FUDGE = 300                 # seconds that clocks may differ, as RFC 8945 §10 recommends
MOST_BYTES = 4096           # of a message
MOST_REMEMBERED = 10_000    # messages within the fudge time; more of them are refused
TELL_EACH = 60.0            # seconds between two log lines about what was refused
_ALGORITHMS = {name.to_text(omit_final_dot=True): name for name in (
    dns.tsig.HMAC_SHA1, dns.tsig.HMAC_SHA224, dns.tsig.HMAC_SHA256, dns.tsig.HMAC_SHA384, dns.tsig.HMAC_SHA512)}


class Refused(Exception):
    """A message that is not obeyed, by one of REASONS."""


class Heard(NamedTuple):
    """A message that may be obeyed. generation: of a NOTIFY; None for a query how we are."""

    message: dns.message.Message
    generation: int | None


def load_key(text: str) -> dns.tsig.Key:
    """The key in a file that `tsig-keygen` wrote; ConfError says what is wrong with it."""
    name, algorithm, secret = read_key(text)
    if algorithm.lower() not in _ALGORITHMS:
        raise ConfError(f"algorithm {algorithm} is not one of {', '.join(_ALGORITHMS)}")
    try:
        key = dns.tsig.Key(name, base64.b64decode(secret, validate=True), _ALGORITHMS[algorithm.lower()])
    except (binascii.Error, dns.exception.DNSException) as error:
        raise ConfError(f"the key cannot be used: {error}") from error
    if len(secret_of(key)) < 16:
        raise ConfError("the secret is shorter than 128 bits; `tsig-keygen` makes a good one")
    return key


def secret_of(key: dns.tsig.Key) -> bytes:
    """The bytes of a key."""
    secret: bytes = key.secret
    return secret


def notify(generation: int, key: dns.tsig.Key) -> dns.message.Message:
    """Tell a puller that there is a generation."""
    message = dns.message.make_query(NAME, dns.rdatatype.SOA, flags=dns.flags.AA)
    message.set_opcode(dns.opcode.NOTIFY)
    message.answer.append(dns.rrset.from_text(NAME, 0, "IN", "TXT", str(generation)))
    message.use_tsig(key, fudge=FUDGE)
    return message


def query(key: dns.tsig.Key) -> dns.message.Message:
    """Ask a puller how it is."""
    message = dns.message.make_query(NAME, dns.rdatatype.TXT, flags=0)
    message.use_tsig(key, fudge=FUDGE)
    return message


def reply(heard: Heard, status: Mapping[str, Any]) -> bytes:
    """The answer to a message that was accepted; the status goes with it when it was asked for."""
    answer = dns.message.make_response(heard.message, fudge=FUDGE)
    answer.flags |= dns.flags.AA
    if heard.generation is None:
        data = json.dumps(status).encode()
        pieces = " ".join(f'"{_quoted(data[at:at + 200])}"' for at in range(0, len(data), 200))
        answer.answer.append(dns.rrset.from_text(NAME, 0, "IN", "TXT", pieces))
    return answer.to_wire()


def _quoted(data: bytes) -> str:
    return "".join(chr(each) if 0x20 <= each < 0x7f and each not in b'"\\' else f"\\{each:03d}" for each in data)


def read_status(answer: dns.message.Message) -> dict[str, Any]:
    """What a puller says of itself; ManifestError when it is nothing that can be read."""
    for rrset in answer.answer:
        if rrset.name == NAME and rrset.rdtype == dns.rdatatype.TXT and len(rrset):
            try:
                status = json.loads(b"".join(rrset[0].strings))
                return {"generation": int(status["generation"]), "state": str(status["state"])[:40],
                        "reason": str(status["reason"])[:500], "failed": int(status["failed"])}
            except (ValueError, TypeError, KeyError, RecursionError):
                break
    raise ManifestError("the puller's answer cannot be read: publisher and pullers need the same version")


class Guard:
    """Says which messages may be obeyed, and remembers what must not be obeyed twice."""

    def __init__(self, key: dns.tsig.Key) -> None:
        self.key = key
        self._accepted: dict[bytes, float] = {}     # MAC → when it may be forgotten, oldest first
        self.refused = Counter[str]()
        self._untold = Counter[str]()
        self._tell_at = 0.0

    def hear(self, wire: bytes, now: float) -> Heard:
        """The message in these bytes, at monotonic `now`; Refused when it is not to be obeyed."""
        try:
            message = self._read(wire)
            self._first_time(message, now)
            return Heard(message, _meaning(message))
        except Refused as error:
            self.refused[str(error)] += 1
            self._untold[str(error)] += 1
            raise

    def _read(self, wire: bytes) -> dns.message.Message:
        if len(wire) > MOST_BYTES:
            raise Refused("malformed")
        try:
            message = dns.message.from_wire(wire, keyring={self.key.name: self.key})
        except (dns.message.UnknownTSIGKey, dns.tsig.BadKey, dns.tsig.BadAlgorithm):
            raise Refused("wrong key") from None
        except dns.tsig.BadSignature:
            raise Refused("wrong signature") from None
        except dns.tsig.BadTime:
            raise Refused("wrong time") from None
        except (dns.exception.DNSException, ValueError, NotImplementedError):
            raise Refused("malformed") from None
        if not message.had_tsig:
            raise Refused("unsigned")
        return message

    def _first_time(self, message: dns.message.Message, now: float) -> None:
        assert message.tsig is not None
        mac, fudge = message.tsig[0].mac, message.tsig[0].fudge
        if fudge > FUDGE:
            raise Refused("wrong time")
        while self._accepted and next(iter(self._accepted.values())) <= now:
            del self._accepted[next(iter(self._accepted))]
        if mac in self._accepted or len(self._accepted) >= MOST_REMEMBERED:
            raise Refused("replayed")
        # Signed by a clock that is ahead by the fudge, it stays valid for twice the fudge.
        self._accepted[mac] = now + 2 * FUDGE + 1

    def news(self, now: float) -> str:
        """A line about what was refused, when one is due; else ""."""
        if not self._untold or now < self._tell_at:
            return ""
        self._tell_at = now + TELL_EACH
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(self._untold.items()))
        self._untold.clear()
        return f"messages refused: {told}"


def _meaning(message: dns.message.Message) -> int | None:
    if message.flags & dns.flags.QR or len(message.question) != 1 or message.question[0].name != NAME:
        raise Refused("unexpected")
    kind = message.question[0].rdtype
    if message.opcode() == dns.opcode.QUERY and kind == dns.rdatatype.TXT:
        return None
    if message.opcode() == dns.opcode.NOTIFY and kind == dns.rdatatype.SOA:
        for rrset in message.answer:
            if rrset.name == NAME and rrset.rdtype == dns.rdatatype.TXT and len(rrset):
                text = b"".join(rrset[0].strings)
                if text.isdigit() and len(text) < 19:
                    return int(text)
    raise Refused("unexpected")
