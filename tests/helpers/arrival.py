"""When the kernel got a datagram, however late a test reads it."""

from __future__ import annotations

import socket
import struct

SO_TIMESTAMPNS = 35             # include/uapi/asm-generic/socket.h; not in the socket module
ANCILLARY = 64                  # bytes of ancillary data that recvmsg() must allow for the stamp


def stamp(one: socket.socket) -> None:
    """From now on its datagrams come with a stamp, the first of their ancillary data."""
    one.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)


def arrived(ancillary: list[tuple[int, int, bytes]]) -> float:
    """Seconds since 1970 of a stamped datagram, by what recvmsg() gave with it."""
    seconds, nanoseconds = struct.unpack("=qq", ancillary[0][2])
    return float(seconds + nanoseconds / 1e9)
