"""Whoever asks whatever, he is admitted, refused or dropped just as Python's ipaddress reads the access lists."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import socket
import struct
from collections.abc import Callable, Iterator

from balancer.datapath.admission import Admission, ranges
from tests.fuzz import door
from tests.fuzz.reading import Choices
from tests.helpers import wire

ADMITTED, DROPPED, REFUSED = range(3)
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_CORNERS = (0, 1, 2**31, 2**32 - 1, 0xFFFF << 32, (0xFFFF << 32) + 2**32 - 1, 1 << 48, 2**127, 2**128 - 1)

# List lengths, networks (family, prefix length, address), the client, the message.
SEEDS = (
    b"\1\0\0\0" + b"\x04\x00" + bytes(4) + b"\x04\x7f\0\0\1" + wire.query(ident=1),
    b"\2\1\1\1" + b"\x04\x08\x0a\0\0\0" + b"\x06\x00" + bytes(16) + b"\x04\x20\x7f\0\0\1" * 3
    + b"\x06" + bytes(15) + b"\1" + wire.query("a.example", "AXFR", ident=2),
    b"\3\2\0\1" + b"\x06\x60" + bytes(10) + b"\xff\xff" + bytes(4) + b"\x04\x1f\xc0\0\2\0" * 4
    + b"\x06" + bytes(10) + b"\xff\xff\xc0\0\2\1" + wire.query("a.example", "SOA", ident=3, opcode="NOTIFY"),
    b"\0\0\1\0" + b"\x04\x18\x7f\0\0\0" + b"\x04\x7f\0\0\xff" + wire.query("a.example", "SOA", opcode="UPDATE"),
)


def address(choices: Choices) -> Address:
    """An address; a first byte of 200 and more chooses a corner."""
    kind = choices.number()
    bits = 128 if kind % 4 == 2 else 32
    value = _CORNERS[kind % len(_CORNERS)] if kind >= 200 else choices.number(bits // 8)
    value %= 2**bits
    return ipaddress.IPv6Address(value) if bits == 128 else ipaddress.IPv4Address(value)


def network(choices: Choices) -> Network:
    kind, length = choices.number(), choices.number()
    bits = 128 if kind % 4 == 2 else 32
    return ipaddress.ip_network((choices.number(bits // 8), length % (bits + 1)), strict=False) if bits == 32 else (
        ipaddress.IPv6Network((choices.number(16), length % 129), strict=False))


def member(client: Address, networks: list[Network]) -> bool:
    """IPv6 networks hold no IPv4 client, and a mapped address is an IPv4 client."""
    plain = (client.ipv4_mapped or client) if isinstance(client, ipaddress.IPv6Address) else client
    return any(one.version == plain.version and plain in one for one in networks)


def verdict(client: Address, lists: list[list[Network]], message: bytes, end: int) -> int:
    query, transfer, update, notify = lists
    opcode, kind = message[2] >> 3 & 15, int.from_bytes(message[end - 4:end - 2], "big") if end else 0
    wanted = update if opcode == 5 else notify if opcode == 4 else transfer if kind in (251, 252) else query
    if member(client, wanted):
        return ADMITTED
    return REFUSED if wanted is not query and member(client, query) else DROPPED


def check(data: bytes) -> None:
    choices = Choices(data)
    counts = [choices.below(6) for _ in range(4)]
    lists = [[network(choices) for _ in range(count)] for count in counts]
    client, message = address(choices), choices.bytes(512).ljust(12, b"\0")
    for networks in lists:
        pairs = ranges(networks)
        assert all(first <= last for first, last in pairs)
        assert all(one[1] + 1 < other[0] for one, other in itertools.pairwise(pairs)), "disjoint, sorted"
    end = door.question_end(message)
    if isinstance(client, ipaddress.IPv4Address):
        name = struct.pack("=H2x4s8x", socket.AF_INET, client.packed)
    else:
        name = struct.pack("=H6x16s4x", socket.AF_INET6, client.packed)
    found = door.judge(Admission(*(ranges(networks) for networks in lists)), message, end, name)
    assert found == verdict(client, lists, message, end)


@contextlib.contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    yield check
