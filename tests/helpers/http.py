"""HTTP by hand: what a browser would never send, and every byte of what comes back. Runs in the test's loop."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from tests.helpers.ports import family
from tests.helpers.waiting import PATIENCE

Address = tuple[str, int]


class Answer(NamedTuple):
    """headers: names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def parse(data: bytes) -> Answer:
    """The first answer of what came on a connection; the body is all that follows."""
    head, _, body = data.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    return Answer(int(line.split()[1]), headers, body)


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read_until(self, end: bytes, seconds: float = PATIENCE) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(end), seconds)

    async def read_all(self, seconds: float = PATIENCE) -> bytes:
        """Everything until the other side closes; a reset is an end too."""
        data = b""
        async with asyncio.timeout(seconds):
            while True:
                try:
                    piece = await self.reader.read(1 << 16)
                except ConnectionError:
                    return data
                if not piece:
                    return data
                data += piece

    def reset(self) -> None:
        """Vanish: no goodbye, a RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()


@asynccontextmanager
async def connected(address: Address, *, source: str | None = None,
                    receive: int | None = None) -> AsyncIterator[Client]:
    """A connection, from `source`, with a receive buffer of so many bytes."""
    sock = socket.socket(family(address[0]), socket.SOCK_STREAM)
    sock.setblocking(False)
    if receive is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    if source is not None:
        sock.bind((source, 0))
    try:
        async with asyncio.timeout(PATIENCE):
            await asyncio.get_running_loop().sock_connect(sock, address)
        reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 16 if receive is None else receive)
    except BaseException:
        sock.close()
        raise
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def ask(address: Address, data: bytes, **options: Any) -> bytes:
    """Send `data`, read until the other side closes."""
    async with connected(address, **options) as client:
        await client.send(data)
        return await client.read_all()


async def get(address: Address, path: str, method: str = "GET", headers: Mapping[str, str] | None = None,
              **options: Any) -> Answer:
    """One request on a connection of its own."""
    fields = {"Host": "test", "Connection": "close", **(headers or {})}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return parse(await ask(address, "\r\n".join(lines).encode(), **options))
