"""A channel between the supervisor and one child: SOCK_SEQPACKET, whole messages, descriptors beside them.

uvloop's transports pass no descriptors, so the socket is read through `add_reader`. Sending never blocks: what the
kernel does not take waits in a bounded queue; a child that reads so little that the queue fills is broken. A message
that is too long for a datagram travels in a memfd, whose descriptor comes first; the datagram itself is empty but
for one byte then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from balancer.errors import ProtocolError
from balancer.process.messages import MOST_BYTES, MOST_DESCRIPTORS, Message, decode, encode

INLINE_BYTES = 32768
MOST_QUEUED = 4096
IN_MEMORY = b"\0"               # no JSON begins so
READ_AT_ONCE = 64               # messages, so that a flood on one channel delays the others little


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a new channel."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Channel:
    """One end. `on_message(message, descriptors)` owns the descriptors; `on_end()` is called once, at EOF.

    `on_broken(error)` is called when the other end says what no program of ours says, or reads nothing any more.
    """

    def __init__(self, end: socket.socket, on_message: Callable[[Message, list[int]], None],
                 on_end: Callable[[], None], on_broken: Callable[[ProtocolError], None]) -> None:
        self._socket = end
        self._socket.setblocking(False)
        self._on_message, self._on_end, self._on_broken = on_message, on_end, on_broken
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._writing = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(end.fileno(), self._readable)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Queue a message; its descriptors are duplicated, so the caller may close its own at once."""
        if self._socket.fileno() < 0:
            return                          # the other end is gone, whoever sends hears of it soon
        data = encode(message)
        if len(descriptors) >= MOST_DESCRIPTORS:
            raise ProtocolError(f"{len(descriptors)} descriptors in one message, at most {MOST_DESCRIPTORS - 1}")
        if len(self._queue) >= MOST_QUEUED:
            self._on_broken(ProtocolError(f"{len(self._queue)} messages wait: the other end does not read"))
            return
        copies = [os.dup(descriptor) for descriptor in descriptors]
        if len(data) > INLINE_BYTES:
            copies.insert(0, _in_memory(data))
            data = IN_MEMORY
        self._queue.append((data, copies))
        if not self._writing:
            self._write()

    @property
    def unsent(self) -> int:
        """Messages that wait for the other end to read."""
        return len(self._queue)

    def _write(self) -> None:
        while self._queue:
            data, descriptors = self._queue[0]
            try:
                socket.send_fds(self._socket, [data], descriptors)
            except (BlockingIOError, InterruptedError):
                if not self._writing:
                    self._writing = True
                    self._loop.add_writer(self._socket.fileno(), self._write)
                return
            except OSError:                 # the other end is gone: its EOF is on the way
                pass
            self._queue.popleft()
            for descriptor in descriptors:
                os.close(descriptor)
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        for _ in range(READ_AT_ONCE):
            if not self._read():
                return

    def _read(self) -> bool:
        """Take one message; False when there is none now."""
        if self._socket.fileno() < 0:
            return False                    # closed by what the last message made happen
        try:
            data, descriptors, _flags, _address = socket.recv_fds(self._socket, INLINE_BYTES + 1, MOST_DESCRIPTORS)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data, descriptors = b"", []
        if not data:
            self.close()
            self._on_end()
            return False
        owned = list(descriptors)
        try:
            message = decode(_from_memory(owned.pop(0)) if data == IN_MEMORY and owned else data)
        except ProtocolError as error:
            for descriptor in owned:
                os.close(descriptor)
            self._on_broken(error)
            return False
        self._on_message(message, owned)
        return True

    def drain(self) -> None:
        """Take what the other end has said before it ended."""
        while self._read():
            pass

    def close(self) -> None:
        """Stop reading and give up what is queued."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket.fileno())
        if self._writing:
            self._loop.remove_writer(self._socket.fileno())
        for _, descriptors in self._queue:
            for descriptor in descriptors:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._queue.clear()
        self._socket.close()


def broken(error: ProtocolError) -> None:
    """`on_broken` of a child: what no program of ours says is fatal to who hears it."""
    raise error


def fatal(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Exception handler of every child's loop.

    An impossible state is never repaired: say what it was and let the supervisor start a successor.
    """
    with contextlib.suppress(Exception):
        loop.default_exception_handler(context)
    os._exit(1)


def _in_memory(data: bytes) -> int:
    descriptor = os.memfd_create("ns7-message", os.MFD_CLOEXEC)
    os.pwrite(descriptor, data, 0)
    return descriptor


def _from_memory(descriptor: int) -> bytes:
    try:
        return os.pread(descriptor, MOST_BYTES + 1, 0)
    except OSError as error:
        raise ProtocolError(f"a message that cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
