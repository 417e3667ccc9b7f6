"""UDP datagrams with any source address and port, through raw sockets; over loopback they arrive."""

from __future__ import annotations

import socket
import struct

from tests.helpers import ports
from tests.helpers.need import missing, require_root


class Spoofer:
    """Sends to `address` with forged sources; needs CAP_NET_RAW."""

    def __init__(self, address: str) -> None:
        require_root("a raw socket")
        self.host, self.port = ports.split(address)
        self.family = ports.family(self.host)
        try:
            self._socket = socket.socket(self.family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        except PermissionError:
            missing("raw sockets are not allowed here (CAP_NET_RAW)")

    def send(self, data: bytes, source: str, port: int) -> None:
        if self.family == socket.AF_INET6:
            self._socket.sendto(self._packet6(data, source, port), (self.host, 0, 0, 0))
        else:
            self._socket.sendto(self._packet4(data, source, port), (self.host, 0))

    def close(self) -> None:
        self._socket.close()

    def _packet4(self, data: bytes, source: str, port: int) -> bytes:
        # Checksum 0: none (RFC 768). The kernel fills in the IP header's length, id and checksum.
        udp = struct.pack("!HHHH", port, self.port, 8 + len(data), 0) + data
        addresses = socket.inet_aton(source) + socket.inet_aton(self.host)
        return struct.pack("!BBHHHBBH8s", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0, addresses) + udp

    def _packet6(self, data: bytes, source: str, port: int) -> bytes:
        length = 8 + len(data)
        addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, self.host)
        bare = struct.pack("!HHHH", port, self.port, length, 0) + data
        total = _checksum(addresses + struct.pack("!II", length, socket.IPPROTO_UDP) + bare)
        udp = bare[:6] + total.to_bytes(2, "big") + data
        return struct.pack("!IHBB", 6 << 28, length, socket.IPPROTO_UDP, 64) + addresses + udp


def _checksum(data: bytes) -> int:
    """RFC 1071; 0 is written as all ones (RFC 8200 §8.1)."""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF or 0xFFFF
