"""Queries over TCP (RFC 7766): one per connection, or pipelined on connections that stay open."""

from __future__ import annotations

import os
import select
import socket
import time

from benchmarks.oneshot.plan import Plan
from benchmarks.oneshot.record import Record


class Connection:
    """One connection and the queries unanswered on it (id → number)."""

    def __init__(self, address: tuple[str, int]) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connecting = True
        self.pending: dict[int, int] = {}
        self.out, self.into = bytearray(), bytearray()
        self._next = 0
        # A refusal over loopback is told here, but the next read or write tells it as well.
        self.sock.connect_ex(address)

    def queue(self, number: int, query: bytes) -> None:
        ident = self._next & 0xFFFF
        self._next += 1
        self.pending[ident] = number
        self.out += len(query).to_bytes(2, "big") + ident.to_bytes(2, "big") + query[2:]

    def flush(self) -> None:
        """Write what waits; OSError when the connection is broken."""
        if self.connecting:
            if code := self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, os.strerror(code))
            self.connecting = False
        if self.out:
            del self.out[: self.sock.send(self.out)]

    def messages(self) -> list[bytes]:
        """The whole messages that have come; ConnectionAbortedError at the other side's end."""
        piece = self.sock.recv(65536)
        if not piece:
            raise ConnectionAbortedError
        self.into += piece
        found = []
        while len(self.into) >= 2 and len(self.into) >= (end := 2 + int.from_bytes(self.into[:2], "big")):
            found.append(bytes(self.into[2:end]))
            del self.into[:end]
        return found


class Tcp:
    """The connections of one run."""

    def __init__(self, plan: Plan, record: Record) -> None:
        self._plan, self._record = plan, record
        self._open: dict[int, Connection] = {}
        self._kept: list[Connection | None] = [None] * plan.connections
        self._poll = select.epoll()
        self._refused = self._reset = self._closed = 0

    def send(self, count: int) -> int:
        """Send the next `count` queries; all of them count as sent, whatever becomes of the connections."""
        for _ in range(count):
            number = self._record.send(time.monotonic_ns())
            connection = self._connection(number)
            connection.queue(number, self._plan.queries[number % len(self._plan.queries)])
            if not connection.connecting:
                self._poll.modify(connection.sock, select.EPOLLIN | select.EPOLLOUT)
        return count

    def receive(self) -> None:
        """Go on with every connection that has something to tell."""
        for descriptor, events in self._poll.poll(0):
            connection = self._open[descriptor]
            try:
                if events & (select.EPOLLOUT | select.EPOLLERR):
                    connection.flush()
                    wanted = select.EPOLLIN | (select.EPOLLOUT if connection.out else 0)
                    self._poll.modify(connection.sock, wanted)
                if events & (select.EPOLLIN | select.EPOLLHUP):
                    for message in connection.messages():
                        self._answer(connection, message)
                    if not self._kept and not connection.pending:
                        self._drop(connection)
            except BlockingIOError:
                pass
            except OSError as error:
                self._count(connection, error)
                self._drop(connection)

    def _connection(self, number: int) -> Connection:
        place = number % len(self._kept) if self._kept else None
        if place is not None and (kept := self._kept[place]):
            return kept
        connection = Connection(self._plan.address)
        self._open[connection.sock.fileno()] = connection
        self._poll.register(connection.sock, select.EPOLLIN | select.EPOLLOUT)
        if place is not None:
            self._kept[place] = connection
        return connection

    def _answer(self, connection: Connection, message: bytes) -> None:
        ident = int.from_bytes(message[:2], "big")
        number = connection.pending.get(ident)
        if number is None or len(message) < 12 or not message[2] & 0x80:
            self._record.wrong += 1
            return
        asked = self._plan.queries[number % len(self._plan.queries)]
        if message[4:6] != b"\0\0" and message[12 : len(asked)] != asked[12:]:
            self._record.wrong += 1
            return
        del connection.pending[ident]
        self._record.answer(number, time.monotonic_ns(), message[3] & 0x0F)

    def _count(self, connection: Connection, error: OSError) -> None:
        if isinstance(error, ConnectionRefusedError):
            self._refused += 1
        elif not isinstance(error, ConnectionAbortedError):
            self._reset += 1
        elif connection.pending:  # an idle connection may be closed at any time
            self._closed += 1

    def _drop(self, connection: Connection) -> None:
        del self._open[connection.sock.fileno()]
        self._kept = [None if kept is connection else kept for kept in self._kept]
        connection.sock.close()

    def waiting(self) -> bool:
        """Whether an answer may still come: not for what was asked on a connection that is gone."""
        return any(connection.pending for connection in self._open.values())

    def counts(self) -> dict[str, int]:
        return {"refused": self._refused, "reset": self._reset, "closed": self._closed}

    def doubt(self) -> list[str]:
        return []

    def close(self) -> None:
        for connection in list(self._open.values()):
            self._drop(connection)
        self._poll.close()
