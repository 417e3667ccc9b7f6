"""The reference for TCP: a blind relay in pure Python on uvloop's transports. It reads no DNS at all.

Run by the benchmarks as a peer (`python -m benchmarks.uvtcp`): one server connection per client connection, round
robin, bytes both ways with buffers of 16 KiB. What it costs is what uvloop's transports cost; framing, matching and
retries would come on top.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import signal
from collections.abc import Callable
from typing import cast

import uvloop

from benchmarks.uvproxy import address

READ_BYTES = 16384


class Half(asyncio.BufferedProtocol):
    """One direction's reader; writes go to the other half's transport."""

    def __init__(self, other: Half | None = None, on_made: Callable[[Half], None] | None = None) -> None:
        self.other = other
        self.transport: asyncio.Transport | None = None
        self.early = b""
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._on_made = on_made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self._on_made is not None:
            self._on_made(self)
        if self.early:
            self.transport.write(self.early)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        other = self.other
        if other is None:
            return
        if other.transport is None:
            other.early += bytes(self._buffer[:nbytes])
        else:
            other.transport.write(bytes(self._buffer[:nbytes]))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


async def serve(listen: tuple[str, int], servers: list[tuple[str, int]]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    turn = itertools.cycle(servers)
    connecting: set[asyncio.Task[object]] = set()

    def connect(front: Half) -> None:
        back = Half(front)
        front.other = back
        task: asyncio.Task[object] = loop.create_task(loop.create_connection(lambda: back, *next(turn)))
        connecting.add(task)
        task.add_done_callback(connecting.discard)

    await loop.create_server(lambda: Half(on_made=connect), *listen, backlog=4096)
    await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.uvtcp", description="Blind TCP relay on uvloop.")
    parser.add_argument("--listen", type=address, required=True, metavar="IP:PORT")
    parser.add_argument("--server", type=address, action="append", required=True, metavar="IP:PORT")
    options = parser.parse_args()
    uvloop.run(serve(options.listen, options.server))


if __name__ == "__main__":
    main()
