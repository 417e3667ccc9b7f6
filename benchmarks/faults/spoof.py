"""Forged ICMP port-unreachables: from the server's host, for the director's right ports, quoting a query that was
never sent. Whoever believes them takes a server out that is well."""

from __future__ import annotations

import random
import socket
import struct
import time
from pathlib import Path

from benchmarks.lab import Address
from benchmarks.load import query
from benchmarks.servers import PROBE
from tests.helpers.netns import Namespace
from tests.helpers.network import Host

PER_SECOND = 1000


def checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def port_unreachable(source: Address, target: Address, payload: bytes) -> bytes:
    """The ICMP message (RFC 792) that says: the datagram from `source` to `target` found no listener."""
    udp = struct.pack("!HHHH", source.port, target.port, 8 + len(payload), 0) + payload
    addresses = socket.inet_aton(source.host) + socket.inet_aton(target.host)
    quoted = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, socket.IPPROTO_UDP, 0) + addresses
    quoted = quoted[:10] + checksum(quoted).to_bytes(2, "big") + quoted[12:]
    body = b"\0\0\0\0" + quoted + udp
    return struct.pack("!BBH", 3, 3, checksum(b"\3\3\0\0" + body)) + body


def ports_toward(lines: list[str], target: Address) -> list[int]:
    """Local ports of the sockets connected to `target`, in the lines of /proc/net/udp."""
    remote = f"{int.from_bytes(socket.inet_aton(target.host), 'little'):08X}:{target.port:04X}"
    fields = [line.split() for line in lines[1:]]
    return [int(field[1].partition(":")[2], 16) for field in fields if field[2] == remote]


def forge_unreachables(server: Host, director: Host, target: Address, count: int) -> None:
    """Send them within about a second; the ports are looked up anew now and then, for some balancers change them."""
    with server.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        start = time.monotonic()
        ports: list[int] = []
        for number in range(count):
            time.sleep(max(0.0, start + number / PER_SECOND - time.monotonic()))
            if number % 50 == 0:
                ports = _ports(director, target) or ports
            if ports:
                source = Address(director.address4, random.choice(ports))
                message = port_unreachable(source, target, query(PROBE, random.getrandbits(16)))
                sock.sendto(message, (director.address4, 0))


def _ports(director: Namespace, target: Address) -> list[int]:
    with director.entered():
        return ports_toward(Path("/proc/thread-self/net/udp").read_text().splitlines(), target)
