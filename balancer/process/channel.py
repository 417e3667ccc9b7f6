"""A channel between the supervisor and one child: SOCK_SEQPACKET, whole messages, descriptors beside them.

uvloop's transports pass no descriptors, so the socket is read through `add_reader`. Sending never blocks: what the
kernel does not take waits in a bounded queue; a child that reads so little that the queue fills is broken.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence

from balancer.errors import ProtocolError
from balancer.process.messages import MOST_BYTES, MOST_DESCRIPTORS, Message, decode, encode

MOST_QUEUED = 4096


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a new channel."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Channel:
    """One end. `on_message(message, descriptors)` owns the descriptors; `on_end()` is called once, at EOF."""

    def __init__(self, end: socket.socket, on_message: Callable[[Message, list[int]], None],
                 on_end: Callable[[], None]) -> None:
        self._socket = end
        self._socket.setblocking(False)
        self._on_message = on_message
        self._on_end = on_end
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(end.fileno(), self._readable)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Queue a message; its descriptors are duplicated, so the caller may close its own at once."""
        if len(descriptors) > MOST_DESCRIPTORS:
            raise ProtocolError(f"{len(descriptors)} descriptors in one message, at most {MOST_DESCRIPTORS}")
        if len(self._queue) >= MOST_QUEUED:
            raise ProtocolError("the other end of the channel does not read")
        self._queue.append((encode(message), [os.dup(descriptor) for descriptor in descriptors]))
        self._writable()

    def _writable(self) -> None:
        while self._queue:
            data, descriptors = self._queue[0]
            try:
                socket.send_fds(self._socket, [data], descriptors)
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._socket.fileno(), self._writable)
                return
            except OSError:                 # the other end is gone: its EOF is on the way
                pass
            self._queue.popleft()
            for descriptor in descriptors:
                os.close(descriptor)
        self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        try:
            data, descriptors, _flags, _address = socket.recv_fds(self._socket, MOST_BYTES, MOST_DESCRIPTORS)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            self.close()
            self._on_end()
            return
        self._on_message(decode(data), list(descriptors))

    def close(self) -> None:
        """Stop reading and give up what is queued."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        for _, descriptors in self._queue:
            for descriptor in descriptors:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._queue.clear()
        self._socket.close()
