"""A worker: forwards queries, owns nothing. Everything it works with comes over its channel from the supervisor.

Imports uvloop and the compiled data path, nothing heavy.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
from collections.abc import Sequence

import uvloop

from balancer import __version__
from balancer.component import WARNING
from balancer.datapath.poller import DataPath
from balancer.datapath.query import check_none_live
from balancer.errors import ProtocolError
from balancer.process.channel import Channel, broken, fatal
from balancer.process.journal import Sparse, log
from balancer.process.kinds import Kind
from balancer.process.messages import (
    Admit,
    Attach,
    Changed,
    Go,
    Imported,
    Listen,
    Listening,
    Message,
    Reach,
    Stop,
    TcpLimits,
    TcpReach,
)

KILLERS_TOLD = 10           # lines a minute about queries over which servers go away: a client can send many
DRAIN = 1.0                 # seconds at most that a stopping worker goes on taking what waits in its sockets


class Worker:
    """Messages in, a running data path out."""

    def __init__(self, end: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._path: DataPath | None = None
        self._servers: dict[tuple[int, int], list[int]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False
        self._drained = False
        self._killers = Sparse(KILLERS_TOLD, 60.0)
        self._channel = Channel(end, self._on_message, self.stop, broken)
        self._channel.send(Imported(__version__))

    def _on_message(self, message: Message, descriptors: list[int]) -> None:
        match message:
            case Attach():
                config, verdicts, row, slots, *others = descriptors
                self._path = DataPath(config, row, slots, others, verdicts)
                for descriptor in descriptors:
                    os.close(descriptor)
            case Admit():
                self._running.admit(*message)
            case Listen(service, "tcp"):
                self._running.tcp.open_listener(service, descriptors[0])
            case Listen(service):
                self._running.open_listener(service, descriptors[0])
            case TcpLimits():
                self._running.tcp.set_limits(message.service, message[1:])
            case TcpReach():
                self._running.tcp.set_server(*message)
            case Reach(service, slot):
                self._close_removed()
                self._servers[service, slot] = descriptors
                self._running.open_server(service, slot, descriptors)
            case Go():
                adopted = self._running.adopt()
                self._loop.add_reader(self._running.fileno(), self._running.on_readable)
                self._sweep()
                self._channel.send(Listening(adopted))
            case Changed():
                self._running.refresh()
                self._close_removed()
            case Stop(grace, alone):
                self.stop(grace, alone)
            case _:
                raise ProtocolError(f"a worker is never told {type(message).__name__}")

    @property
    def _running(self) -> DataPath:
        if self._path is None:
            raise ProtocolError("the first message is Attach")
        return self._path

    def _sweep(self) -> None:
        self._timer = self._loop.call_later(self._running.sweep(), self._sweep)
        for question, client in self._running.take_killers():
            line = self._killers.thin(
                f"{WARNING}two servers went away over a query: {_named(question)} from {_client(client)}; it may have "
                "ended them, and is sent to no other", self._loop.time())
            if line:
                log(line)
        self._close_removed()
        if self._drained and self._running.in_flight == 0 and not self._running.tcp.busy and not self.ended.done():
            self.ended.set_result(None)

    def _close_removed(self) -> None:
        for pair in self._running.take_closed():
            for descriptor in self._servers.pop(pair, ()):
                os.close(descriptor)

    def stop(self, grace: float = 0.0, alone: Sequence[int] = ()) -> None:
        """Take nothing new; end when nothing is in flight, at the latest after the longest timeout.

        TCP connections in use may go on for `grace` seconds. Told again, the shorter grace holds. alone: see `Stop`.
        """
        if self._path is None or self._timer is None:
            if not self.ended.done():
                self.ended.set_result(None)
            return
        self._path.tcp.stop(grace, alone)
        if self._stopping:
            return
        self._stopping = True
        self._drain(self._loop.time() + DRAIN)

    def _drain(self, deadline: float) -> None:
        # What the kernel has queued already is still taken, in pieces, so that answers and timers go on.
        if self._running.drain() and self._loop.time() < deadline:
            self._loop.call_soon(self._drain, deadline)
            return
        self._running.stop_reading()
        self._drained = True


async def serve(channel: int) -> None:
    """Run until told to stop; `channel` is the inherited descriptor of our end."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(fatal)
    worker = Worker(socket.socket(fileno=channel))
    loop.add_signal_handler(signal.SIGTERM, worker.stop)
    loop.add_signal_handler(signal.SIGINT, lambda: None)    # Ctrl-C reaches the whole group: the supervisor decides
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    await worker.ended
    check_none_live()


def _named(message: bytes) -> str:
    """The first question of a query, for people."""
    labels, at = [], 12
    while message[at]:
        labels.append("".join(chr(byte) if 33 <= byte < 127 and byte not in b".\\" else f"\\{byte:03}"
                              for byte in message[at + 1:at + 1 + message[at]]))
        at += 1 + message[at]
    return f"{'.'.join(labels)}. type {int.from_bytes(message[at + 1:at + 3], 'big')}"


def _client(address: bytes) -> str:
    """A sockaddr, for people."""
    family, port = struct.unpack_from("=H", address)[0], struct.unpack_from("!H", address, 2)[0]
    raw = address[4:8] if family == socket.AF_INET else address[8:24]
    return f"{socket.inet_ntop(family, raw)} port {port}"


def main(kind: Kind, channel: int) -> None:
    """Entry of the process kind "worker"."""
    uvloop.run(serve(channel))
