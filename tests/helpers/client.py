"""Clients: raw datagrams over connected UDP sockets, and the one-shot client as a load that counts what is lost.

A connected socket hears only the address it asked, so an answer from the wrong address is a lost one.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable, Sequence
from typing import Any, Self

import dns.edns
import dns.message

from benchmarks.oneshot import Plan, Result, Schedule, run
from tests.helpers import ports, wire
from tests.helpers.waiting import PATIENCE

# Long enough that a datagram that was going to come has come; used only to show that nothing comes.
QUIET = 0.25
SO_RCVBUFFORCE = 33


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
        with contextlib.suppress(PermissionError):          # answers come faster than a test reads them
            self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
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


def load(
    address: str,
    qps: float,
    seconds: float,
    schedule: Schedule = (),
    *,
    sockets: int = 16,
    patience: float = 3.0,
) -> Result:
    """Send at `qps` for `seconds`, each query once and for a name of its own, and wait up to `patience` for each
    answer. `schedule` is (second, call) in order; what a call raises is raised here.

    Several source ports, so that every worker gets its part.
    """
    names = [wire.query(f"n{number}.example") for number in range(int(qps * seconds))]
    return run(Plan(ports.split(address), qps, seconds, names, sockets, patience), schedule)
