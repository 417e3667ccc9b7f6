"""The virtual addresses on this host's interface, through netlink. Blocking: runs in a thread of its own.

An address is added for a few seconds and renewed while this process lives, so the kernel itself drops it when ns7 is
gone. It has no prefix route (the host's own address has), an IPv6 one needs no duplicate detection and is deprecated
from the start, so nothing leaves from it unless asked to.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, NamedTuple

from pyroute2 import DiagSocket, IPRoute
from pyroute2.netlink.exceptions import NetlinkError

LIFETIME = 5                    # seconds; renewed each second
IFA_F_NODAD, IFA_F_TENTATIVE, IFA_F_NOPREFIXROUTE = 0x02, 0x40, 0x200   # include/uapi/linux/if_addr.h
TCP_CLOSE, TCP_LISTEN = 7, 10   # include/net/tcp_states.h; an unconnected UDP socket is in the first

Address = IPv4Address | IPv6Address


class Interface(NamedTuple):
    """An interface with its ifindex, as it is now. own: its addresses but the virtual ones; present: these, and when
    each was created, in 1/100 s of the kernel's time. Renewing leaves that as it is."""

    number: int
    mac: str
    own: tuple[Address, ...]
    present: Mapping[Address, int]


class Addresses:
    """The virtual addresses of one interface. Every method may raise OSError with the kernel's reason.

    pyroute2 works in an event loop of its own and cannot be used where uvloop runs, not even to open its sockets.
    """

    def __init__(self, interface: str, virtual: Iterable[Address]) -> None:
        self.interface, self.virtual = interface, tuple(virtual)

    @cached_property
    def _route(self) -> IPRoute:
        return IPRoute()

    @cached_property
    def _diagnosis(self) -> DiagSocket:
        one = DiagSocket()
        one.bind()
        return one

    def look(self) -> Interface:
        """The interface and its addresses."""
        index = socket.if_nametoindex(self.interface)
        (link,) = _ask(self._route.get_links, index)
        own: list[Address] = []
        present: dict[Address, int] = {}
        for entry in _ask(self._route.get_addr, index=index):
            address = ip_address(entry.get("local") or entry.get("address"))
            if address in self.virtual:
                present[address] = entry.get("cacheinfo")["cstamp"]      # struct ifa_cacheinfo, linux/if_addr.h
            elif not (entry.get("flags") or 0) & IFA_F_TENTATIVE:
                own.append(address)
        return Interface(index, link.get("address") or "", tuple(own), present)

    def renew(self) -> None:
        """Add the virtual addresses, or make those that are there last longer."""
        index = socket.if_nametoindex(self.interface)
        for address in self.virtual:
            old = address.version == 6
            _ask(self._route.addr, "replace", index=index, address=str(address), prefixlen=address.max_prefixlen,
                 flags=IFA_F_NOPREFIXROUTE | (IFA_F_NODAD if old else 0), valid_lft=LIFETIME,
                 preferred_lft=0 if old else LIFETIME)

    def remove(self) -> list[Address]:
        """Take the virtual addresses off; those that were there."""
        index, removed = socket.if_nametoindex(self.interface), []
        for address in self.virtual:
            try:
                _ask(self._route.addr, "del", index=index, address=str(address), prefixlen=address.max_prefixlen)
                removed.append(address)
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
        return removed

    def strangers(self, ports: Collection[int], ours: Collection[int]) -> list[tuple[Address, int, str]]:
        """Sockets but `ours` (by inode) that receive what is sent to a virtual address at one of the ports."""
        found = []
        for family in {socket.AF_INET6 if one.version == 6 else socket.AF_INET for one in self.virtual}:
            for proto, name, state in ((socket.IPPROTO_UDP, "udp", TCP_CLOSE), (socket.IPPROTO_TCP, "tcp", TCP_LISTEN)):
                entries = [entry for port in ports for entry in _ask(
                    self._diagnosis.get_sock_stats, family=family, protocol=proto, sport=port, states=1 << state)]
                for entry in entries:
                    address, port = ip_address(entry["idiag_src"]), entry["idiag_sport"]
                    if port in ports and address in self.virtual and entry["idiag_inode"] not in ours:
                        found.append((address, port, name))
        return found

    def close(self) -> None:
        """Give up the netlink sockets; the addresses stay."""
        for one in ("_route", "_diagnosis"):
            if one in self.__dict__:
                self.__dict__.pop(one).close()


def _ask(request: Any, *arguments: Any, **fields: Any) -> list[Any]:
    try:
        return list(request(*arguments, **fields))
    except NetlinkError as error:
        raise OSError(error.code, str(error.args[-1])) from error
