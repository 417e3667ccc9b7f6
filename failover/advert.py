"""Reads the adverts of others (RFC 9568 §5.2), strictly: whatever is on the link may be hostile. Pure, no scapy.

An IPv4 advert may have either checksum that is in the wild: over the message alone (RFC 9568 §5.2.8), or with a
pseudo-header too, as keepalived and most others send. An IPv6 advert has the second kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from failover.vrrp import Heard

PROTOCOL = 112
TTL = 255                       # RFC 9568 §5.1.1.3: what was routed has less
VERSION, ADVERTISEMENT = 3, 1
HEADER = 8
INTERVAL_RATIO = 10             # of an interval to ours, either way; a longer one would make us wait for minutes
REASONS = ("short", "ttl", "sender", "destination", "version", "type", "checksum", "vrid", "interval", "addresses")

Address = IPv4Address | IPv6Address


class Rejected(Exception):
    """An advert that is not obeyed; `reason` is one of `REASONS`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True)
class Rules:
    """What an advert of this virtual router must be. interval is in seconds.

    addresses: all its virtual ones of the family. own: ours, as what we sent is not news. peers: the only directors
    that are listened to, then by unicast; empty: anybody, by multicast.
    """

    vrid: int
    interval: float
    addresses: frozenset[Address]
    own: frozenset[Address]
    peers: frozenset[Address]


def read4(datagram: bytes, rules: Rules) -> Heard:
    """The advert in an IPv4 datagram, header and all; `Rejected` when it is not to be obeyed."""
    if len(datagram) < 20 or datagram[0] >> 4 != 4:
        raise Rejected("short")
    header, total = (datagram[0] & 15) * 4, int.from_bytes(datagram[2:4], "big")
    if header < 20 or total != len(datagram) or total < header or datagram[9] != PROTOCOL:
        raise Rejected("short")
    source, destination = IPv4Address(datagram[12:16]), IPv4Address(datagram[16:20])
    return _read(datagram[header:], source, destination, datagram[8], rules)


def read6(message: bytes, source: IPv6Address, destination: IPv6Address, hops: int, rules: Rules) -> Heard:
    """The advert in an IPv6 packet's payload; `Rejected` when it is not to be obeyed."""
    return _read(message, source, destination, hops, rules)


def _read(message: bytes, source: Address, destination: Address, ttl: int, rules: Rules) -> Heard:
    if ttl != TTL:
        raise Rejected("ttl")
    if source in rules.own or source.is_multicast or source.is_unspecified:
        raise Rejected("sender")
    if rules.peers and source not in rules.peers:
        raise Rejected("sender")
    if destination.is_multicast is bool(rules.peers):
        raise Rejected("destination")
    if len(message) < HEADER:
        raise Rejected("short")
    if message[0] >> 4 != VERSION:
        raise Rejected("version")
    if message[0] & 15 != ADVERTISEMENT:
        raise Rejected("type")
    size = 4 if source.version == 4 else 16
    if message[3] == 0 or len(message) != HEADER + message[3] * size:
        raise Rejected("short")
    if not _sums(message, source, destination):
        raise Rejected("checksum")
    if message[1] != rules.vrid:
        raise Rejected("vrid")
    interval = (int.from_bytes(message[4:6], "big") & 0x0FFF) / 100
    if not rules.interval <= interval * INTERVAL_RATIO <= rules.interval * INTERVAL_RATIO**2:
        raise Rejected("interval")
    kind = type(source)
    listed = [kind(message[at:at + size]) for at in range(HEADER, len(message), size)]
    if len(set(listed)) != len(listed) or rules.addresses != set(listed):
        raise Rejected("addresses")
    return Heard(message[2], interval, str(source))


def pseudo_header(source: Address, destination: Address, length: int) -> bytes:
    """RFC 793 §3.1 for IPv4, RFC 8200 §8.1 for IPv6."""
    if source.version == 4:
        return source.packed + destination.packed + bytes((0, PROTOCOL)) + length.to_bytes(2, "big")
    return source.packed + destination.packed + length.to_bytes(4, "big") + bytes((0, 0, 0, PROTOCOL))


def checksum(data: bytes) -> int:
    """RFC 1071; 0 for data that contains its own checksum."""
    data += bytes(len(data) % 2)
    total = sum(int.from_bytes(data[at:at + 2], "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _sums(message: bytes, source: Address, destination: Address) -> bool:
    with_header = checksum(pseudo_header(source, destination, len(message)) + message) == 0
    return with_header or (source.version == 4 and checksum(message) == 0)
