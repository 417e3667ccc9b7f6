"""What the failover process sends, built by scapy before it is needed and then sent as stored bytes.

Adverts are VRRP messages without an IP header (the kernel makes that); announcements and probes are Ethernet frames.
An announcement of an IPv4 address is an ARP request whose sender and target are that address (RFC 5227 §2.3), of an
IPv6 address an unsolicited neighbour advertisement (RFC 4861 §7.2.6). A probe is an ARP request without a sender's
address (RFC 5227 §2.1.1), or a solicitation from no address (RFC 4862 §5.4.2), so it changes nobody's cache.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from failover.advert import PROTOCOL, TTL


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """scapy, imported here, keeps no pickles in its user's home: a process with rights reads none."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = "/proc/none"
    try:
        yield
    finally:
        del os.environ["XDG_CACHE_HOME"]
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


with _without_cache():
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6
    from scapy.layers.l2 import ARP, Ether
    from scapy.layers.vrrp import VRRPv3
    from scapy.utils import checksum as plain_checksum

GROUP4, GROUP6 = IPv4Address("224.0.0.18"), IPv6Address("ff02::12")     # RFC 9568 §5.1.1.2, §5.1.2.2
BROADCAST, NOBODY = "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"
ALL_NODES, ALL_NODES_MAC = "ff02::1", "33:33:00:00:00:01"

Address = IPv4Address | IPv6Address


def link_local(vrid: int) -> IPv6Address:
    """The link-local address that goes with IPv6 ones (RFC 9568 §5.2.9), from the virtual MAC 00-00-5E-00-02-VRID."""
    return IPv6Address((0xFE80 << 112) | 0x0200_5EFF_FE00_0200 | vrid)


def advert(source: Address, destination: Address, vrid: int, priority: int, interval: float,
           addresses: Iterable[Address], pseudo: bool = True) -> bytes:
    """A VRRPv3 message (RFC 9568 §5.2). interval is in seconds; pseudo: IPv4's checksum has a pseudo-header."""
    ip = (IP(src=str(source), dst=str(destination), ttl=TTL, proto=PROTOCOL) if source.version == 4
          else IPv6(src=str(source), dst=str(destination), hlim=TTL, nh=PROTOCOL))
    message = VRRPv3(vrid=vrid, priority=priority, adv=round(interval * 100), addrlist=[str(one) for one in addresses])
    if source.version == 4 and not pseudo:
        message.chksum = 0
        message.chksum = plain_checksum(bytes((ip / message)[VRRPv3]))
    header = 20 if source.version == 4 else 40
    return bytes(ip / message)[header:]


def announcement(mac: str, address: Address) -> bytes:
    """Tells everybody on the link that the address is at `mac`."""
    if address.version == 4:
        return bytes(Ether(src=mac, dst=BROADCAST)
                     / ARP(op=1, hwsrc=mac, psrc=str(address), hwdst=NOBODY, pdst=str(address)))
    return bytes(Ether(src=mac, dst=ALL_NODES_MAC) / IPv6(src=str(address), dst=ALL_NODES, hlim=255)
                 / ICMPv6ND_NA(R=0, S=0, O=1, tgt=str(address)) / ICMPv6NDOptDstLLAddr(lladdr=mac))


def probe(mac: str, address: Address) -> bytes:
    """Asks who has the address."""
    if address.version == 4:
        return bytes(Ether(src=mac, dst=BROADCAST)
                     / ARP(op=1, hwsrc=mac, psrc="0.0.0.0", hwdst=NOBODY, pdst=str(address)))
    low = address.packed[13:]
    return bytes(Ether(src=mac, dst="33:33:ff:" + low.hex(":")) / IPv6(src="::", dst=solicited(address), hlim=255)
                 / ICMPv6ND_NS(tgt=str(address)))


def solicited(address: Address) -> str:
    """The solicited-node group of an IPv6 address (RFC 4291 §2.7.1)."""
    return str(IPv6Address((0xFF02 << 112) | (0x01FF << 24) | int.from_bytes(address.packed[13:], "big")))


def virtual_macs(vrid: int) -> tuple[str, str]:
    """The MACs of a virtual router, which other implementations may use (RFC 9568 §7.3)."""
    return f"00:00:5e:00:01:{vrid:02x}", f"00:00:5e:00:02:{vrid:02x}"


def parse(addresses: Iterable[str]) -> list[Address]:
    """Addresses from their text."""
    return [ip_address(one) for one in addresses]
