"""Inputs from seeds: cut, repeated, spliced, overwritten with what parsers trip over. Pure: chance is an argument."""

from __future__ import annotations

import random
from collections.abc import Sequence

MOST_BYTES = 4096
# Lengths, counts, pointers and signs at their edges; what opens or closes something in text.
ODD = (
    b"\x00", b"\x01", b"\x3f", b"\x40", b"\x7f", b"\x80", b"\xc0", b"\xc0\x0c", b"\xff", b"\xff\xff", b"\x00\x00",
    b"\x00\x29", b"\x00\xfb", b"\x00\xfc", b"\n", b'"', b"'", b"[", b"]", b"{", b"}", b"=", b",", b"\\", b'"""', b"#",
    b"-1", b"1e999", b"NaN", b"null", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"9" * 400, b"[" * 200,
)


def mutate(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """One input: a seed with up to eight changes."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(0, 8)):
        at = chance.randint(0, len(data))
        match chance.randrange(7):
            case 0:
                data[at:at + 1] = bytes([chance.getrandbits(8)])
            case 1:
                del data[at:at + chance.choice((1, 2, 4, 64))]
            case 2:
                data[at:at] = data[at:at + chance.randint(1, 32)]
            case 3:
                data[at:at] = chance.choice(ODD)
            case 4:
                odd = chance.choice(ODD)
                data[at:at + len(odd)] = odd
            case 5:
                other = chance.choice(seeds)
                data[at:] = other[chance.randint(0, len(other)):]
            case 6:
                data[at:at] = chance.randbytes(chance.randint(1, 16))
    return bytes(data[:MOST_BYTES])
