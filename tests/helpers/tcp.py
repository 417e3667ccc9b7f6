"""DNS over TCP, both ends: a client that sends any bytes, and a scripted name server that remembers everything.

A handler of `TcpServer` gets one `Asked` and does with its connection what the test wants: `asked.connection.say(…)`.
Each connection has a thread of its own, so a handler may wait.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

from tests.helpers import ports, wire
from tests.helpers.waiting import PATIENCE, wait_for

QUIET = 0.25


def frame(*messages: bytes) -> bytes:
    """Messages as they go over TCP (RFC 1035 §4.2.2)."""
    return b"".join(struct.pack("!H", len(message)) + message for message in messages)


class Connection:
    """One connected socket that speaks in messages."""

    def __init__(self, sock: socket.socket, number: int = 0) -> None:
        self.socket, self.number = sock, number
        self.reader: threading.Thread | None = None     # who sits in recv() for as long as the connection lasts
        self.ended = False
        self._kept = b""

    def say(self, *messages: bytes) -> None:
        self.socket.sendall(frame(*messages))

    def say_raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def hear(self, seconds: float = PATIENCE) -> bytes:
        """The next message; AssertionError when none comes whole, EOFError when the other side closed."""
        deadline = time.monotonic() + seconds
        while True:
            if len(self._kept) >= 2:
                length = struct.unpack("!H", self._kept[:2])[0]
                if len(self._kept) >= 2 + length:
                    message, self._kept = self._kept[2 : 2 + length], self._kept[2 + length :]
                    return message
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                raise AssertionError(f"no whole message within {seconds:g} s, {len(self._kept)} bytes") from None
            except ConnectionResetError:
                raise EOFError("reset") from None
            if not data:
                raise EOFError(f"closed after {len(self._kept)} bytes of a message")
            self._kept += data

    def hear_all(self, count: int, seconds: float = PATIENCE) -> list[bytes]:
        deadline = time.monotonic() + seconds
        return [self.hear(max(0.01, deadline - time.monotonic())) for _ in range(count)]

    def nothing_comes(self, seconds: float = QUIET) -> None:
        """Neither a message nor an end."""
        with contextlib.suppress(AssertionError):
            message = self.hear(seconds)
            raise ValueError(f"expected nothing, got {message[:40].hex()}")

    def wait_closed(self, seconds: float = PATIENCE) -> None:
        """AssertionError when the other side does not close, or says something before it does."""
        try:
            message = self.hear(seconds)
        except EOFError:
            return
        raise AssertionError(f"expected the end, got {message[:40].hex()}")

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._end(socket.SHUT_RD)

    def close(self) -> None:
        self._end(socket.SHUT_RDWR)

    def _end(self, how: int) -> None:
        """The reader must wake, and close: else it would wait on whatever gets the descriptor's number next."""
        self.ended = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(how)
        if self.reader in (None, threading.current_thread()):
            self.socket.close()


class TcpClient(Connection):
    """Connected to `address`, from `source` when given."""

    def __init__(self, address: str, source: str | None = None, receive_buffer: int | None = None) -> None:
        host, port = ports.split(address)
        sock = socket.socket(ports.family(host), socket.SOCK_STREAM)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source is not None:
            sock.bind((source, 0))
        sock.settimeout(PATIENCE)
        sock.connect((host, port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(sock)

    def ask(self, data: bytes, seconds: float = PATIENCE) -> bytes:
        """Send one query, return the next message; it must bear the query's id."""
        self.say(data)
        answer = self.hear(seconds)
        assert answer[:2] == data[:2], f"asked with id {data[:2].hex()}, answered with {answer[:2].hex()}"
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True)
class Asked:
    """One message as it came to a server."""

    data: bytes
    connection: Connection
    at: float

    def answer(self, *records: bytes, code: str = "NOERROR") -> None:
        """A well-formed answer."""
        self.connection.say(wire.answer(self.data, *(records or (wire.address_record(),)), code=code))


TcpHandler = Callable[[Asked], None]


def answering(asked: Asked) -> None:
    asked.answer()


def silent(asked: Asked) -> None:
    return


def closing(asked: Asked) -> None:
    asked.connection.close()


def resetting(asked: Asked) -> None:
    asked.connection.reset()


class TcpServer:
    """Listens from construction on; `handler` may be replaced at any time."""

    def __init__(self, handler: TcpHandler = answering, host: str = "127.0.0.1", port: int = 0) -> None:
        self.handler = handler
        self.asked: list[Asked] = []
        self.errors: list[BaseException] = []
        self.connections: list[Connection] = []
        self.host, self.port = host, port or ports.free_port(host)
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self.listen()

    @property
    def address(self) -> str:
        return ports.address(self.host, self.port)

    @property
    def messages(self) -> list[bytes]:
        return [asked.data for asked in list(self.asked)]

    def open_connections(self) -> int:
        """Connections that neither side has closed."""
        return sum(connection.socket.fileno() >= 0 for connection in self.connections)

    def wait(self, count: int, seconds: float = PATIENCE) -> list[Asked]:
        wait_for(f"{count} queries at {self.address}", lambda: len(self.asked) >= count, seconds)
        return list(self.asked)

    def answer_all(self, asked: Iterable[Asked]) -> None:
        """Answer queries that the handler left unanswered, in the order given."""
        for one in asked:
            one.answer()

    def listen(self) -> None:
        """Listen (again)."""
        self._listener = socket.socket(ports.family(self.host), socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((self.host, self.port))
        self._listener.listen(512)
        self._acceptor = self._start(self._accept, self._listener)

    def refuse(self) -> None:
        """Listen no more: connections are refused."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._acceptor.join(PATIENCE)           # nobody comes in any more
            self._listener.close()
            self._listener = None

    def kill(self) -> None:
        """As if the process died: refuse, and reset what is open."""
        self.refuse()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.reset()

    def close(self) -> None:
        """End; what a handler raised is raised here."""
        self.refuse()
        for connection in list(self.connections):
            connection.close()
        for thread in self._threads:
            thread.join(PATIENCE)
        if self.errors:
            raise self.errors[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(sock, len(self.connections))
            self.connections.append(connection)
            connection.reader = self._start(self._serve, connection)

    def _serve(self, connection: Connection) -> None:
        while True:
            try:
                data = connection.hear(3600)
            except (EOFError, OSError, ValueError):
                break
            if connection.ended:        # who is dead says nothing, whatever came before its reader woke
                break
            asked = Asked(data, connection, time.monotonic())
            self.asked.append(asked)
            try:
                self.handler(asked)
            except OSError:  # ns7 closed first
                pass
            except Exception as exc:  # shown by close(): a thread must not fail unheard
                self.errors.append(exc)
        connection.reader = None
        connection.close()
