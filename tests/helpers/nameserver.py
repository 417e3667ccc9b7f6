"""A scripted UDP name server: says what a test tells it to, and remembers every datagram. Its own thread.

A handler gets one `Received` and yields what to send: bytes (at once, to the sender) or `Reply` (later, from
another socket, to somebody else). Handlers here: `echo` (the default), `silent`, and makers of others.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

from tests.helpers import ports, wire
from tests.helpers.arrival import ANCILLARY, arrived, stamp
from tests.helpers.waiting import PATIENCE, wait_for


@dataclass(frozen=True)
class Received:
    """One datagram as it came."""

    data: bytes
    source: tuple[Any, ...]
    at: float  # when the kernel got it, CLOCK_MONOTONIC

    @property
    def port(self) -> int:
        return int(self.source[1])


@dataclass(frozen=True)
class Reply:
    """One datagram to send: after `delay`, from `sock` (else the server's own), to `to` (else the sender)."""

    data: bytes
    delay: float = 0.0
    sock: socket.socket | None = None
    to: tuple[Any, ...] | None = None


Handler = Callable[[Received], Iterable[bytes | Reply]]


def echo(received: Received) -> Iterable[bytes | Reply]:
    """The query with QR set: the least that counts as an answer, whatever was asked."""
    flags = wire.flags(received.data) | wire.QR
    return [received.data[:2] + flags.to_bytes(2, "big") + received.data[4:]]


def silent(received: Received) -> Iterable[bytes | Reply]:
    return []


def delayed(seconds: float, handler: Handler = echo) -> Handler:
    """Everything `handler` says, `seconds` later."""

    def handle(received: Received) -> Iterable[bytes | Reply]:
        for reply in handler(received):
            said = Reply(reply) if isinstance(reply, bytes) else reply
            yield Reply(said.data, said.delay + seconds, said.sock, said.to)

    return handle


def always(make: Callable[[bytes], bytes]) -> Handler:
    """Answer each query with make(query)."""
    return lambda received: [make(received.data)]


class NameServer:
    """Listens from construction on; `handler` may be replaced at any time."""

    def __init__(self, handler: Handler = echo, host: str = "127.0.0.1", port: int = 0) -> None:
        self.handler = handler
        self.received: list[Received] = []
        self.errors: list[BaseException] = []
        self._socket = socket.socket(ports.family(host), socket.SOCK_DGRAM)
        self._socket.bind((host, port or ports.free_port(host)))
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        stamp(self._socket)
        self._socket.setblocking(False)
        self.host, self.port = host, int(self._socket.getsockname()[1])
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        self._later: list[tuple[float, int, Reply, tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"nameserver-{self.port}", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return ports.address(self.host, self.port)

    @property
    def messages(self) -> list[bytes]:
        return [received.data for received in list(self.received)]

    def wait(self, count: int, seconds: float = PATIENCE) -> list[Received]:
        """The datagrams so far, once there are at least `count`."""
        wait_for(f"{count} queries at {self.address}", lambda: len(self.received) >= count, seconds)
        return list(self.received)

    def send(self, data: bytes, to: tuple[Any, ...]) -> None:
        """Send something nobody asked for."""
        self._socket.sendto(data, to)

    def answer_all(self, received: Iterable[Received], make: Callable[[bytes], bytes] | None = None) -> None:
        """Answer queries that the handler left unanswered, in the order given."""
        for one in received:
            data = make(one.data) if make else wire.answer(one.data, wire.address_record())
            self._socket.sendto(data, one.source)

    def close(self) -> None:
        """Stop and close the port; what a handler raised is raised here."""
        if not self._stopping:
            self._stopping = True
            os.write(self._wake_write, b"x")
            self._thread.join(PATIENCE)
            self._socket.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
        if self.errors:
            raise self.errors[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            while not self._stopping:
                wait = max(0.0, self._later[0][0] - time.monotonic()) if self._later else None
                selector.select(wait)
                self._read()
                self._speak()

    def _read(self) -> None:
        for _ in range(64):
            try:
                data, ancillary, _, source = self._socket.recvmsg(65535, ANCILLARY)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error of an earlier answer
                continue
            received = Received(data, source, time.monotonic() - (time.time() - arrived(ancillary)))
            self.received.append(received)
            try:
                for reply in self.handler(received):
                    said = Reply(reply) if isinstance(reply, bytes) else reply
                    entry = (received.at + said.delay, next(self._order), said, said.to or source)
                    heapq.heappush(self._later, entry)
            except Exception as exc:  # shown by close(): a thread must not fail unheard
                self.errors.append(exc)

    def _speak(self) -> None:
        while self._later and self._later[0][0] <= time.monotonic():
            _, _, reply, to = heapq.heappop(self._later)
            with contextlib.suppress(OSError):
                (reply.sock or self._socket).sendto(reply.data, to)
