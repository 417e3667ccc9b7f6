"""The reference: a DNS proxy in pure Python on uvloop, as well as one can be written in a hundred lines.

Run by the benchmarks as a peer (`python -m benchmarks.uvproxy`). It has the shape of ns7 without compiled
code and without batches: one datagram protocol toward the clients, connected ones toward each server, ids
rewritten, the server with the fewest queries in flight takes the next. It retries nothing and checks little.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import socket
import time
from typing import cast

import uvloop

TIMEOUT = 2.0
BUFFER = 4 << 20
Client = tuple[str, int]


def widen(transport: asyncio.DatagramTransport) -> None:
    sock = cast(socket.socket, transport.get_extra_info("socket"))
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)


class Back(asyncio.DatagramProtocol):
    """One connected socket toward a server and its queries in flight, oldest first."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self.pending: dict[int, tuple[bytes, Client, float]] = {}
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)
        widen(self.transport)

    def forward(self, query: bytes, client: Client) -> None:
        if len(self.pending) >= 60_000:
            return
        ident = random.getrandbits(16)
        while ident in self.pending:
            ident = random.getrandbits(16)
        self.pending[ident] = query[:2], client, time.monotonic()
        self.transport.sendto(ident.to_bytes(2, "big") + query[2:])

    def datagram_received(self, data: bytes, addr: object) -> None:
        if len(data) >= 12 and (slot := self.pending.pop(int.from_bytes(data[:2], "big"), None)):
            self.front.transport.sendto(slot[0] + data[2:], slot[1])

    def error_received(self, exc: Exception) -> None:
        """A refusal: the query stays pending and times out."""

    def sweep(self, now: float) -> None:
        while self.pending:
            ident = next(iter(self.pending))
            if now - self.pending[ident][2] < TIMEOUT:
                return
            del self.pending[ident]


class Front(asyncio.DatagramProtocol):
    """The socket the clients see."""

    def __init__(self) -> None:
        self.backs: list[Back] = []
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)
        widen(self.transport)

    def datagram_received(self, data: bytes, addr: Client) -> None:
        if len(data) >= 12 and not data[2] & 0x80:
            min(self.backs, key=lambda back: len(back.pending)).forward(data, addr)

    def error_received(self, exc: Exception) -> None:
        """A client that is gone."""


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


async def serve(listen: tuple[str, int], servers: list[tuple[str, int]]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    front = Front()
    for server in servers:
        _, back = await loop.create_datagram_endpoint(lambda: Back(front), remote_addr=server)
        front.backs.append(back)
    await loop.create_datagram_endpoint(lambda: front, local_addr=listen)
    while not stop.is_set():
        for back in front.backs:
            back.sweep(time.monotonic())
        try:
            await asyncio.wait_for(stop.wait(), 0.5)
        except TimeoutError:
            pass


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.uvproxy", description="Pure-Python UDP DNS proxy."
    )
    parser.add_argument("--listen", type=address, required=True, metavar="IP:PORT")
    parser.add_argument("--server", type=address, action="append", required=True, metavar="IP:PORT")
    options = parser.parse_args()
    uvloop.run(serve(options.listen, options.server))


if __name__ == "__main__":
    main()
