"""The sockets of the failover process, and the stored bytes that go out through them.

Adverts travel through raw IP sockets (protocol 112), announcements and probes through a packet socket. Nothing here
waits, and what the kernel refuses is counted: an advert that could not be sent is one that was lost.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

from failover import frames
from failover.address import Interface
from failover.advert import PROTOCOL, TTL, Rejected, Rules, read4, read6
from failover.vrrp import LEAVING, Heard

IP_PKTINFO = 8                  # include/uapi/linux/in.h; Python's socket module does not name it
PRECEDENCE = 0xC0               # internetwork control, as keepalived sends
READ_AT_ONCE = 64
LARGEST = 2048

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Plan:
    """What the frames depend on. addresses: those that this host has and gives to others; peers: without our own."""

    interface: str
    index: int
    mac: str
    vrid: int
    interval: float
    pseudo: bool
    addresses: tuple[Address, ...]
    peers: tuple[Address, ...]
    own: tuple[Address, ...]

    @classmethod
    def of(cls, config: Any, virtual: Sequence[Address], seen: Interface) -> Plan:
        """The plan of this section on an interface as it is now."""
        peers = tuple(frames.parse(config.peers))
        return cls(config.interface, seen.number, seen.mac, config.virtual_router_id, config.interval,
                   config.checksum == "pseudo", tuple(virtual), peers, seen.own)

    def family(self, version: int) -> tuple[Address, ...]:
        """The virtual addresses of one family; of IPv6 the link-local one comes first (RFC 9568 §5.2.9)."""
        return tuple(sorted((one for one in self.addresses if one.version == version),
                            key=lambda one: not one.is_link_local))

    def others(self, version: int) -> tuple[Address, ...]:
        """The peers of one family but this host."""
        return tuple(one for one in self.peers if one.version == version and one not in self.own)

    def source(self, version: int) -> Address | None:
        """The address that adverts of one family are sent from: of the peers, else the interface's first."""
        own = [one for one in self.own if one.version == version]
        listed = [one for one in own if one in self.peers]
        local = [one for one in own if one.is_link_local is (version == 6)]
        unicast = bool(self.others(version)) and version == 6
        return next(iter(listed or (own if unicast else local) or own), None)

    def destinations(self, version: int) -> tuple[Address, ...]:
        """Where adverts of one family go."""
        return self.others(version) or ((frames.GROUP4,) if version == 4 else (frames.GROUP6,))


class Stored:
    """The frames of a plan, built once. They survive their maker: `export` gives plain data for a successor."""

    def __init__(self, plan: Plan, priorities: Collection[int], given: Any = None) -> None:
        self.plan = plan
        self._key = repr((plan, priorities))
        if isinstance(given, dict) and given.get("key") == self._key:
            self.adverts = {int(priority): [bytes.fromhex(one) for one in row]
                            for priority, row in given["adverts"].items()}
            self.announcements = [bytes.fromhex(one) for one in given["announcements"]]
            return
        self.adverts = {priority: [frames.advert(source, to, plan.vrid, priority, plan.interval, plan.family(version),
                                                 plan.pseudo) for version, source, to in self.ways()]
                        for priority in priorities}
        self.announcements = [frames.announcement(plan.mac, one) for one in plan.addresses]

    def ways(self) -> list[tuple[int, Address, Address]]:
        """(IP version, source, destination) of each advert."""
        found = []
        for version in (4, 6):
            source = self.plan.source(version)
            if source is not None and self.plan.family(version):
                found += [(version, source, to) for to in self.plan.destinations(version)]
        return found

    def export(self) -> dict[str, Any]:
        """Plain data that the constructor takes back."""
        return {"key": self._key,
                "adverts": {priority: [one.hex() for one in row] for priority, row in self.adverts.items()},
                "announcements": [one.hex() for one in self.announcements]}


class Way(NamedTuple):
    """How an advert goes out: through which socket, with what beside it (its source), where to."""

    through: socket.socket
    control: list[tuple[int, int, bytes]]
    target: Any


class Wire:
    """Sockets of one plan; OSError when they cannot be opened. `counts` is the owner's: sent, received, dropped."""

    def __init__(self, stored: Stored, counts: Counter[str]) -> None:
        self.stored, self.plan, self._counts = stored, stored.plan, counts
        self._rules = {version: Rules(
            self.plan.vrid, self.plan.interval, frozenset(self.plan.family(version)), frozenset(self.plan.own),
            frozenset(self.plan.others(version))) for version in (4, 6)}
        self.readers: dict[int, socket.socket] = {}
        with contextlib.ExitStack() as undo:
            for version in sorted({version for version, _, _ in stored.ways()}):
                self.readers[version] = undo.enter_context(self._open4() if version == 4 else self._open6())
            self._ways: list[Way] = [self._way(*way) for way in stored.ways()]
            self._link = undo.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
            self._link.bind((self.plan.interface, 0))
            self._close = undo.pop_all().close

    def _open4(self) -> socket.socket:
        one = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, PROTOCOL)
        member = struct.pack("=4s4si", frames.GROUP4.packed, bytes(4), self.plan.index)
        for option, value in ((socket.IP_TTL, TTL), (socket.IP_TOS, PRECEDENCE), (socket.IP_MULTICAST_TTL, TTL),
                              (socket.IP_MULTICAST_LOOP, 0), (socket.IP_MULTICAST_IF, member)):
            one.setsockopt(socket.IPPROTO_IP, option, value)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.plan.interface.encode())
        if not self.plan.others(4):
            one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        return one

    def _open6(self) -> socket.socket:
        one = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, PROTOCOL)
        for option, value in ((socket.IPV6_UNICAST_HOPS, TTL), (socket.IPV6_MULTICAST_HOPS, TTL),
                              (socket.IPV6_TCLASS, PRECEDENCE), (socket.IPV6_MULTICAST_LOOP, 0),
                              (socket.IPV6_MULTICAST_IF, self.plan.index), (socket.IPV6_RECVPKTINFO, 1),
                              (socket.IPV6_RECVHOPLIMIT, 1)):
            one.setsockopt(socket.IPPROTO_IPV6, option, value)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.plan.interface.encode())
        if not self.plan.others(6):
            member = frames.GROUP6.packed + struct.pack("=i", self.plan.index)
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
        return one

    # Out

    def advert(self, priority: int) -> None:
        """Send one to everybody who should hear it."""
        what = "farewells" if priority == LEAVING else "adverts"
        for way, message in zip(self._ways, self.stored.adverts[priority], strict=True):
            self._try(what, way.through.sendmsg, [message], way.control, 0, way.target)

    def _way(self, version: int, source: Address, to: Address) -> Way:
        index = self.plan.index
        if version == 4:
            origin = struct.pack("=i4s4s", index, source.packed, bytes(4))
            return Way(self.readers[4], [(socket.IPPROTO_IP, IP_PKTINFO, origin)], (str(to), 0))
        origin = source.packed + struct.pack("=i", index)
        return Way(self.readers[6], [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, origin)], (str(to), 0, 0, index))

    def announce(self, times: int) -> None:
        """Tell the link where the addresses are."""
        for _ in range(times):
            for frame in self.stored.announcements:
                self._try("announcements", self._link.send, frame)

    def ask(self, probes: Iterable[bytes]) -> None:
        """Send the frames of a probe."""
        for frame in probes:
            self._try("probes", self._link.send, frame)

    def _try(self, what: str, send: Callable[..., Any], *arguments: Any) -> None:
        try:
            send(*arguments)
            self._counts[f"sent {what}"] += 1
        except OSError:
            self._counts[f"unsent {what}"] += 1

    # In

    def heard(self, version: int) -> Iterator[Heard]:
        """The valid adverts that wait; others are counted by reason."""
        for _ in range(READ_AT_ONCE):
            try:
                heard = self._read4() if version == 4 else self._read6()
            except (BlockingIOError, InterruptedError):
                return
            except OSError:                         # the link went down: a pending error, not a message
                continue
            except Rejected as rejected:
                self._counts[f"dropped {rejected.reason}"] += 1
                continue
            self._counts["received adverts"] += 1
            yield heard

    def _read4(self) -> Heard:
        return read4(self.readers[4].recv(LARGEST), self._rules[4])

    def _read6(self) -> Heard:
        message, ancillary, _, sender = self.readers[6].recvmsg(LARGEST, 256)
        hops, destination = 0, IPv6Address(0)
        for _, kind, data in ancillary:
            if kind == socket.IPV6_HOPLIMIT:
                (hops,) = struct.unpack("=i", data[:4])
            elif kind == socket.IPV6_PKTINFO:
                destination = IPv6Address(data[:16])
        return read6(message, IPv6Address(sender[0].partition("%")[0]), destination, hops, self._rules[6])

    def close(self) -> None:
        """Close its sockets."""
        self._close()
