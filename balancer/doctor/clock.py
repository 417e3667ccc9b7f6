"""What time it is at a name server, without a key: RFC 8945 §5.3.2.

A query signed with a key that nobody knows is answered with NOTAUTH and a TSIG record that says BADKEY and when it was
made. Who copies our time into it tells nothing, so we claim a wrong one.
"""

from __future__ import annotations

import secrets
import socket
import struct
import time

import dns.exception
import dns.wire

TSIG, ANY = 250, 255
WRONG = 40_000_000          # seconds: nobody's clock is so far off by chance
NEAR = 1000                 # seconds around the time we claimed that count as copied
LABEL = b"\x0bns7-unknown"
ALGORITHM = b"\x0bhmac-sha256\x00"
PATIENCE = 0.8              # seconds


def question(ident: int, key: bytes, claimed: int) -> bytes:
    """A query for the root's SOA, "signed" with the key named by the bytes; claimed: seconds since 1970."""
    data = (ALGORITHM + struct.pack("!HIHH", claimed >> 32, claimed & 0xFFFFFFFF, 300, 32) + bytes(32) +
            struct.pack("!HHH", ident, 0, 0))
    return (struct.pack("!HHHHHH", ident, 0, 1, 0, 0, 1) + b"\0" + struct.pack("!HH", 6, 1) +
            LABEL + bytes([len(key)]) + key + b"\0" + struct.pack("!HHIH", TSIG, ANY, 0, len(data)) + data)


def read(answer: bytes, ident: int, claimed: int) -> int | None:
    """When the answer was made by its sender's clock, in seconds since 1970; None when it does not say."""
    try:
        parser = dns.wire.Parser(answer)
        number, flags, questions, *records = parser.get_struct("!HHHHHH")
        if number != ident or not flags & 0x8000:
            return None
        for _ in range(questions):
            parser.get_name()
            parser.get_struct("!HH")
        for _ in range(sum(records)):
            parser.get_name()
            kind, _, _, length = parser.get_struct("!HHIH")
            if kind == TSIG:
                parser.get_name()
                high, low = parser.get_struct("!HI")
                made = int(high) << 32 | int(low)
                return None if made == 0 or abs(made - claimed) < NEAR else made
            parser.get_bytes(length)
    except (dns.exception.DNSException, struct.error):
        pass
    return None


def ahead(host: str, port: int) -> float | None:
    """By how many seconds that server's clock is ahead of ours, right to one second; None: it does not tell."""
    ident = secrets.randbelow(65536)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(PATIENCE)
        claimed = int(time.time()) - WRONG
        try:
            one.connect((host, port))
            before = time.time()
            one.send(question(ident, secrets.token_hex(4).encode(), claimed))
            answer = one.recv(4096)
        except OSError:
            return None
        made = read(answer, ident, claimed)
        return None if made is None else made + 0.5 - (before + time.time()) / 2
