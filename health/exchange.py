"""Questions over connected sockets, UDP and TCP, to many servers at once; one epoll set. Runs in the health process.

uvloop drops for good a reader whose descriptor reports an error, as a connected UDP socket does when its peer refuses.
So these sockets sit in an epoll set of their own, and only that set's descriptor is given to the loop.

An exchange is several questions to one server over one socket. It ends, once, when all are answered, when the peer
refuses or closes, or at its deadline. What lies in the socket is read before a deadline counts, so being late
ourselves makes nobody look silent. Half way to the deadline what is not answered over UDP is asked once more.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import select
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from health.question import MOST_BYTES, Opinion, Question

MOST_READS = 256            # of one exchange: a peer that drips is not worth more
UDP_BYTES = 65535
PREFIX = 2
ERRNO_REFUSED = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH)


@dataclass
class Exchange:
    """What is asked of one server, and what came of it. Times are CLOCK_MONOTONIC seconds.

    opinions: by question, None where there is no answer. error: why it ended early, "" when it did not; refused: with
    that, whether somebody said that nobody is there. foreign: datagrams that belonged to nothing asked. ended: when the
    last answer came, or it was given up.
    """

    proto: str
    address: tuple[str, int]
    questions: Sequence[Question]
    began: float
    deadline: float
    on_end: Callable[[Exchange], None]
    opinions: list[Opinion | None] = field(default_factory=list)
    error: str = ""
    refused: bool = False
    foreign: int = 0
    ended: float = 0.0
    socket: socket.socket | None = None
    idents: list[int] = field(default_factory=list)
    again: float = 0.0
    reads: int = 0
    outgoing: bytes = b""
    incoming: bytearray = field(default_factory=bytearray)

    @property
    def complete(self) -> bool:
        return None not in self.opinions

    @property
    def over(self) -> bool:
        return self.socket is None


class Exchanges:
    """All that are under way. `clock` is CLOCK_MONOTONIC in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._epoll = select.epoll()
        self._open: dict[int, Exchange] = {}

    def fileno(self) -> int:
        """Readable when `on_readable` has something to do."""
        return self._epoll.fileno()

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, proto: str, host: str, port: int, source: str, questions: Sequence[Question], timeout: float,
              on_end: Callable[[Exchange], None]) -> Exchange:
        """Ask; `on_end` is called once, perhaps before this returns. source: the address to ask from, "" for any."""
        now = self._clock()
        one = Exchange(proto, (host, port), questions, now, now + timeout, on_end, [None] * len(questions))
        one.idents = [secrets.randbits(16) for _ in questions]
        kind = socket.SOCK_DGRAM if proto == "udp" else socket.SOCK_STREAM
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            one.socket = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            if source:
                one.socket.bind((source, 0))
            with contextlib.suppress(BlockingIOError):
                one.socket.connect(one.address)
            if proto == "udp":
                one.again = (one.began + one.deadline) / 2
                self._send_datagrams(one)
                events = select.EPOLLIN
            else:
                frames = (question.wire(ident) for question, ident in zip(questions, one.idents, strict=True))
                one.outgoing = b"".join(len(wire).to_bytes(PREFIX, "big") + wire for wire in frames)
                events = select.EPOLLOUT
            self._open[one.socket.fileno()] = one
            self._epoll.register(one.socket, events)
        except OSError as error:
            self._fail(one, error)
        return one

    def on_readable(self) -> None:
        """Take what has arrived."""
        for descriptor, _ in self._epoll.poll(0, 1024):
            one = self._open.get(descriptor)
            if one is not None:
                self._proceed(one)

    def expire(self) -> None:
        """Give up, or ask once more, what is due."""
        now = self._clock()
        for one in [one for one in self._open.values() if now >= one.deadline or 0 < one.again <= now]:
            self._proceed(one)              # what came in the meantime counts
            if one.socket is None:
                continue
            if now >= one.deadline:
                self._end(one)
            else:
                one.again = 0.0
                try:
                    self._send_datagrams(one)
                except OSError as error:
                    self._fail(one, error)

    def hurry(self, one: Exchange) -> None:
        """Do not wait until half way: what is not answered over UDP is asked once more with the next `expire`."""
        one.again = min(one.again, self._clock())

    def close(self) -> None:
        """Forget all of them, without a word."""
        for one in self._open.values():
            if one.socket is not None:
                one.socket.close()
        self._open.clear()
        self._epoll.close()

    def _proceed(self, one: Exchange) -> None:
        try:
            if one.proto == "udp":
                self._read_datagrams(one)
            elif one.outgoing:
                self._send_stream(one)
            else:
                self._read_stream(one)
        except BlockingIOError:
            pass
        except OSError as error:
            self._fail(one, error)

    def _send_datagrams(self, one: Exchange) -> None:
        assert one.socket is not None
        for question, ident, opinion in zip(one.questions, one.idents, one.opinions, strict=True):
            if opinion is None:
                with contextlib.suppress(BlockingIOError):
                    one.socket.send(question.wire(ident))

    def _read_datagrams(self, one: Exchange) -> None:
        while one.socket is not None:
            self._count_read(one)
            self._take(one, one.socket.recv(UDP_BYTES))

    def _send_stream(self, one: Exchange) -> None:
        assert one.socket is not None
        refused = one.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if refused:
            raise OSError(refused, errno.errorcode.get(refused, ""))
        one.outgoing = one.outgoing[one.socket.send(one.outgoing):]
        if not one.outgoing:
            self._epoll.modify(one.socket, select.EPOLLIN)

    def _read_stream(self, one: Exchange) -> None:
        while one.socket is not None:
            self._count_read(one)
            data = one.socket.recv(UDP_BYTES)
            if not data:
                raise OSError(errno.ESHUTDOWN, "")
            one.incoming += data
            while one.socket is not None and len(one.incoming) >= PREFIX:
                size = int.from_bytes(one.incoming[:PREFIX], "big")
                if size > MOST_BYTES:
                    one.error = f"it announced an answer of {size} bytes"
                    self._end(one)
                    return
                if len(one.incoming) < PREFIX + size:
                    break
                frame = bytes(one.incoming[PREFIX:PREFIX + size])
                del one.incoming[:PREFIX + size]
                self._take(one, frame)

    def _count_read(self, one: Exchange) -> None:
        one.reads += 1
        if one.reads > MOST_READS:
            raise OSError(errno.EMSGSIZE, "")

    def _take(self, one: Exchange, data: bytes) -> None:
        for number, (question, ident) in enumerate(zip(one.questions, one.idents, strict=True)):
            if question.belongs(data, ident):
                if one.opinions[number] is None:
                    one.opinions[number] = question.judge(data)
                    if one.complete:
                        self._end(one)
                return
        one.foreign += 1

    def _fail(self, one: Exchange, error: OSError) -> None:
        one.refused = error.errno in ERRNO_REFUSED
        one.error = _told(error)
        self._end(one)

    def _end(self, one: Exchange) -> None:
        one.ended = self._clock()
        if one.socket is not None:
            self._open.pop(one.socket.fileno(), None)
            one.socket.close()              # which also takes it out of the epoll set
            one.socket = None
        one.on_end(one)


def _told(error: OSError) -> str:
    """Why there was no answer, in the words of an operator."""
    known = {errno.ECONNREFUSED: "connection refused", errno.ESHUTDOWN: "it closed the connection",
             errno.ECONNRESET: "it reset the connection", errno.EHOSTUNREACH: "no route to it",
             errno.ENETUNREACH: "no route to it", errno.EMSGSIZE: "an answer in too many pieces"}
    return known.get(error.errno or 0) or (error.strerror or str(error)).lower()
