"""Clients: raw datagrams over connected UDP sockets, and a load at a steady rate that counts what was lost.

A connected socket hears only the address it asked, so an answer from the wrong address is a lost one.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self

import dns.edns
import dns.message

from tests.helpers import ports, wire
from tests.helpers.waiting import PATIENCE

# Long enough that a datagram that was going to come has come; used only to show that nothing comes.
QUIET = 0.25


def edns_query(
    qname: str = "www.example", qtype: str = "A", *, options: Sequence[tuple[int, bytes]] = (), **edns: Any
) -> bytes:
    """A query with an OPT record, by dnspython; options are (code, bytes)."""
    made: list[dns.edns.Option] = [
        dns.edns.GenericOption(dns.edns.OptionType.make(code), data) for code, data in options
    ]
    return dns.message.make_query(qname, qtype, use_edns=0, options=made, **edns).to_wire(max_size=65535)


class Client:
    """One UDP socket connected to `address` ("127.0.0.1:5300"), from `source` when given."""

    def __init__(self, address: str, source: str | None = None) -> None:
        self.server = ports.split(address)
        self.socket = socket.socket(ports.family(self.server[0]), socket.SOCK_DGRAM)
        if source is not None:
            self.socket.bind((source, 0))
        self.socket.connect(self.server)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.socket.getsockname()[:2]
        return str(host), int(port)

    def send(self, data: bytes) -> None:
        self.socket.send(data)

    def receive(self, seconds: float = PATIENCE) -> bytes:
        """The next datagram; AssertionError when none comes."""
        self.socket.settimeout(seconds)
        try:
            return self.socket.recv(65535)
        except TimeoutError:
            raise AssertionError(f"no answer from {self.server} within {seconds:g} s") from None

    def ask(self, data: bytes, seconds: float = PATIENCE) -> bytes:
        """Send one query, return the next datagram; it must bear the query's id."""
        self.send(data)
        answer = self.receive(seconds)
        assert answer[:2] == data[:2], f"asked with id {data[:2].hex()}, answered with {answer[:2].hex()}"
        return answer

    def ask_all(self, queries: Iterable[bytes], seconds: float = PATIENCE) -> dict[int, bytes]:
        """Send many queries (of different ids) at once; the answers by id, or an AssertionError."""
        asked = list(queries)
        for data in asked:
            self.send(data)
        answers: dict[int, bytes] = {}
        deadline = time.monotonic() + seconds
        while len(answers) < len(asked):
            answer = self.receive(max(0.001, deadline - time.monotonic()))
            assert wire.ident(answer) not in answers, "answered twice"
            answers[wire.ident(answer)] = answer
        return answers

    def nothing_comes(self, seconds: float = QUIET) -> None:
        """AssertionError when a datagram comes within `seconds`."""
        self.socket.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            data = self.socket.recv(65535)
            raise AssertionError(f"expected no datagram, got {data[:40].hex()} ({len(data)} bytes)")

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def ask(address: str, data: bytes | None = None, source: str | None = None) -> bytes:
    """One query by a client of its own."""
    with Client(address, source) as client:
        return client.ask(wire.query() if data is None else data)


@dataclass
class Load:
    """What became of a load."""

    sent: int = 0
    answered: int = 0
    twice: int = 0
    latest: float = 0.0  # seconds the slowest answer took
    lost: list[float] = field(default_factory=list)  # when the unanswered were sent, seconds after the start


def load(
    address: str,
    qps: float,
    seconds: float,
    schedule: Sequence[tuple[float, Callable[[], object]]] = (),
    *,
    sockets: int = 16,
    patience: float = 3.0,
) -> Load:
    """Send at `qps` for `seconds`, then wait up to `patience` for the last answers.

    `schedule` is (second, call) in order, run by a thread of its own; what a call raises is raised here.
    Several source ports, so that every worker gets its part.
    """
    clients = [Client(address) for _ in range(sockets)]
    pending: dict[tuple[int, int], float] = {}
    done: set[tuple[int, int]] = set()
    result, first = Load(), random.getrandbits(16)
    with (
        contextlib.ExitStack() as stack,
        selectors.DefaultSelector() as selector,
        ThreadPoolExecutor(1) as actor,
    ):
        for number, client in enumerate(clients):
            stack.callback(client.close)
            client.socket.setblocking(False)
            selector.register(client.socket, selectors.EVENT_READ, number)

        def listen(wait: float) -> None:
            for key, _ in selector.select(wait):
                with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                    while True:
                        tag = (key.data, wire.ident(key.fileobj.recv(65535)))  # type: ignore[union-attr]
                        if tag in pending:
                            result.latest = max(result.latest, time.monotonic() - pending.pop(tag))
                            result.answered += 1
                            done.add(tag)
                        else:
                            result.twice += tag in done

        start = time.monotonic()

        def act() -> None:
            for second, call in schedule:
                time.sleep(max(0.0, start + second - time.monotonic()))
                call()

        acting = actor.submit(act)
        total = int(qps * seconds)
        while result.sent < total:
            due = start + result.sent / qps
            now = time.monotonic()
            if now < due:
                listen(due - now)
            else:
                number, ident = result.sent % sockets, (first + result.sent) & 0xFFFF
                with contextlib.suppress(ConnectionRefusedError):
                    clients[number].send(wire.query(f"n{result.sent}.example", ident=ident))
                pending[number, ident] = now
                result.sent += 1
                listen(0)
        while not acting.done():
            listen(0.05)
        acting.result()
        end = time.monotonic() + patience
        while pending and time.monotonic() < end:
            listen(0.05)
        listen(0.05)
    result.lost = sorted(sent - start for sent in pending.values())
    return result
