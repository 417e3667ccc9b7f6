"""Queries over connected UDP sockets, each (socket, id) in flight once. A connected socket hears only the
address it asked, so an answer from a wrong address is a lost one."""

from __future__ import annotations

import errno
import random
import select
import socket
import struct
import time
from typing import Any

from benchmarks.oneshot.plan import Plan, turn_of
from benchmarks.oneshot.record import Record

SO_TIMESTAMPNS, SO_MEMINFO, MEMINFO_DROPS = 35, 55, 8
BUFFER = 4 << 20
UNREACHABLE = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH)  # what ICMP, or no answer to ARP, brings
BRACKET = 20_000  # ns
TIMESPEC = struct.Struct("qq")
# The level, the option, then the time: what recvmsg returns when nothing else was asked for.
CONTROL_SPACE = socket.CMSG_SPACE(TIMESPEC.size)


class Udp:
    """The sockets of one run. Query n goes out on socket n % count as its (n // count)-th."""

    def __init__(self, plan: Plan, record: Record) -> None:
        self._record = record
        self._packets = [bytearray(query) for query in plan.queries]
        family = socket.AF_INET6 if ":" in plan.address[0] else socket.AF_INET
        self._sockets = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(plan.sockets)]
        self._sends = [sock.send for sock in self._sockets]
        self._receives = [sock.recvmsg_into for sock in self._sockets]
        self._first = random.getrandbits(16)
        self._poll = select.epoll()
        self._numbers: dict[int, int] = {}
        self._buffer = bytearray(65535)
        self._buffers = [self._buffer]
        self._refused = 0
        for number, sock in enumerate(self._sockets):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            sock.connect(plan.address)
            sock.setblocking(False)
            self._numbers[sock.fileno()] = number
            self._poll.register(sock, select.EPOLLIN)

    def send(self, count: int) -> int:
        """Send the next `count` queries; how many went (fewer when a buffer is full)."""
        record, sends, packets = self._record, self._sends, self._packets
        many, kinds = len(sends), len(packets)
        for done in range(count):
            number = len(record.sent)
            packet = packets[number % kinds]
            packet[:2] = (self._first + number // many & 0xFFFF).to_bytes(2, "big")
            now = time.monotonic_ns()
            try:
                sends[number % many](packet)
            except BlockingIOError:
                return done
            except OSError as error:
                # Told in place of the send, of an earlier one: nothing has gone out yet. It is due again.
                self._hear(error)
                return done
            record.send(now)
        return count

    def receive(self) -> None:
        """Read all that has come."""
        record, receives, buffers, buffer = self._record, self._receives, self._buffers, self._buffer
        while events := self._poll.poll(0):
            offset = _offset()
            for descriptor, _ in events:
                sock_number = self._numbers[descriptor]
                try:
                    size, control, _, _ = receives[sock_number](buffers, CONTROL_SPACE)
                except BlockingIOError:
                    continue
                except OSError as error:
                    self._hear(error)
                    continue
                number = self._match(sock_number, size)
                if number is None:
                    record.wrong += 1
                else:
                    record.answer(number, _arrival(control, offset), buffer[3] & 0x0F)

    def _hear(self, error: OSError) -> None:
        if error.errno not in UNREACHABLE:
            raise error
        self._refused += 1

    def _match(self, sock_number: int, size: int) -> int | None:
        """The number of the query that the message in the buffer answers."""
        buffer, many, kinds = self._buffer, len(self._sockets), len(self._packets)
        if size < 12 or not buffer[2] & 0x80:
            return None
        last = (len(self._record.sent) - 1 - sock_number) // many
        turn = turn_of(buffer[0] << 8 | buffer[1], self._first, last)
        number = turn * many + sock_number
        if turn < 0:
            return None
        asked = self._packets[number % kinds]
        # Some errors bear no question.
        if buffer[4:6] != b"\0\0" and buffer[12 : len(asked)] != asked[12:]:
            return None
        return number

    def waiting(self) -> bool:
        """Whether an answer may still come."""
        return self._record.answered < len(self._record.sent)

    def counts(self) -> dict[str, int]:
        return {"refused": self._refused}

    def doubt(self) -> list[str]:
        dropped = sum(
            struct.unpack_from("I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 64), 4 * MEMINFO_DROPS)[0]
            for sock in self._sockets
        )
        return [f"the client's own sockets dropped {dropped} answers"] if dropped else []

    def close(self) -> None:
        self._poll.close()
        for sock in self._sockets:
            sock.close()


def _offset() -> int:
    """CLOCK_REALTIME, which arrival times are in, less CLOCK_MONOTONIC now (ns); bracketed, for we may be
    stopped between the two readings."""
    for _ in range(5):
        before, real, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        if after - before < BRACKET:
            break
    return real - (before + after) // 2


def _arrival(control: list[Any], offset: int) -> int:
    """CLOCK_MONOTONIC ns at which the kernel got the datagram."""
    seconds, nanoseconds = TIMESPEC.unpack(control[0][2])
    arrived: int = seconds * 1_000_000_000 + nanoseconds - offset
    return arrived
