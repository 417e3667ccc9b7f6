"""Asks the link who has the virtual addresses, before they are taken from a director that lives.

An ARP probe for IPv4 (RFC 5227 §2.1.1), for IPv6 a solicitation as duplicate detection sends it (RFC 4862 §5.4.2):
neither changes anybody's cache. The active director is asked for its own address as well: its MAC may answer.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from failover import frames
from failover.wire import Address, Plan

ETH_P_ARP = 0x0806
ETHER_ARP, ARP_REPLY = b"\x08\x06", b"\0\2"
ADVERTISEMENT, TARGET_MAC = 136, b"\2\1"    # ICMPv6 type; option and its length in eights (RFC 4861 §4.4, §4.6.1)
ICMPV6_FILTER = 1               # include/uapi/linux/icmpv6.h; a set bit blocks the type
LARGEST = 2048
MOST_ANSWERS = 256              # of one family: a link that is full of them shall not hold us up

Answer = tuple[Address, str]    # an address, the MAC that has it


class Probe:
    """One question to the link of a plan; peer: the active director, "" for none. Answers wait in its sockets."""

    def __init__(self, plan: Plan, peer: str) -> None:
        self._plan, self._peer = plan, ip_address(peer) if peer else None
        self._asked = [*plan.addresses, *([self._peer] if self._peer is not None else [])]
        self._sockets: dict[int, socket.socket] = {}
        for version in {one.version for one in self._asked}:
            with contextlib.suppress(OSError):      # then nobody is heard, as where nobody answers
                self._sockets[version] = self._open4() if version == 4 else self._open6()

    def _open4(self) -> socket.socket:
        one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETH_P_ARP))
        one.bind((self._plan.interface, ETH_P_ARP))
        return one

    def _open6(self) -> socket.socket:
        one = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
        blocked = [0xFFFFFFFF] * 8
        blocked[ADVERTISEMENT >> 5] &= ~(1 << (ADVERTISEMENT & 31))
        one.setsockopt(socket.IPPROTO_ICMPV6, ICMPV6_FILTER, struct.pack("=8I", *blocked))
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._plan.interface.encode())
        return one

    def frames(self) -> list[bytes]:
        """What to send."""
        return [frames.probe(self._plan.mac, one) for one in self._asked]

    def stranger(self) -> str:
        """Whether an address is held by another machine than the active director; "" or a reason. Ends the probe."""
        found: dict[Address, set[str]] = {}
        for address, mac in self._answers():
            found.setdefault(address, set()).add(mac)
        self.close()
        known = found.get(self._peer, set()) if self._peer is not None else set()
        ours = {self._plan.mac, *frames.virtual_macs(self._plan.vrid)}
        for one in self._plan.addresses:
            others = found.get(one, set()) - known - ours
            if others and (known or self._peer is None):
                return f"{one} is held by {', '.join(sorted(others))}, which is no director"
        return ""

    def _answers(self) -> Iterator[Answer]:
        for version, one in self._sockets.items():
            with contextlib.suppress(OSError):      # nothing more has come
                for _ in range(MOST_ANSWERS):
                    told = _hear4(one) if version == 4 else _hear6(one)
                    if told is not None:
                        yield told

    def close(self) -> None:
        """Hear no answers any more."""
        for one in self._sockets.values():
            one.close()
        self._sockets.clear()


def _hear4(one: socket.socket) -> Answer | None:
    return read_answer(one.recv(LARGEST))


def _hear6(one: socket.socket) -> Answer | None:
    message, ancillary, _, _ = one.recvmsg(LARGEST, 64)
    hops = [struct.unpack("=i", data[:4])[0] for _, kind, data in ancillary if kind == socket.IPV6_HOPLIMIT]
    return read_advertisement(message) if hops == [255] else None       # from this link (RFC 4861 §7.1.2)


def read_answer(frame: bytes) -> Answer | None:
    """The address and MAC that an ARP reply tells of (RFC 826); None for anything else."""
    if len(frame) < 42 or frame[12:14] != ETHER_ARP or frame[14:20] != b"\0\1\x08\0\6\4" or frame[20:22] != ARP_REPLY:
        return None
    return IPv4Address(frame[28:32]), frame[22:28].hex(":")


def read_advertisement(message: bytes) -> Answer | None:
    """The address and MAC that a neighbour advertisement without its IP header tells of; None for anything else."""
    if len(message) < 32 or message[:2] != bytes((ADVERTISEMENT, 0)) or message[24:26] != TARGET_MAC:
        return None
    return IPv6Address(message[8:24]), message[26:32].hex(":")
