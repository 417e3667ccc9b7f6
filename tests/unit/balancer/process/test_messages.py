"""Messages: what is encoded is decoded, anything else is a ProtocolError."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.component import Event
from balancer.errors import ProtocolError
from balancer.process import channel, messages
from balancer.process.channel import Channel
from balancer.process.messages import Message, Notice, Publish, Snapshot, Stop, decode, encode

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), PLAIN, max_size=5), st.text())
def test_round_trip(data: dict[str, Any], name: str) -> None:
    for message in (Snapshot(name, data), Publish(data), Stop()):
        assert decode(encode(message)) == message


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    try:
        message = decode(data)
    except ProtocolError:
        return
    assert decode(encode(message)) == message


@pytest.mark.parametrize("data", [b'["Nonsense"]', b'["Go", 1]', b'["Listen"]', b"[]", b"{}", b"1", b"[" * 5000])
def test_unknown_or_ill_sized(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(data)


def test_event_of_the_wrong_size() -> None:
    assert Notice([1.0, "server", "a", "up", "down", "why", "1"]).read() == Event(
        1.0, "server", "a", "up", "down", "why", "1")
    for fields in ([], [1.0], [1] * 8):
        with pytest.raises(ProtocolError):
            Notice(fields).read()


def test_too_long_for_any_channel() -> None:
    with pytest.raises(ProtocolError, match="at most"):
        encode(Publish({"x": "y" * messages.MOST_BYTES}))


class Ends:
    """Both ends of a channel, and what each heard."""

    def __init__(self) -> None:
        here, there = channel.pair()
        self.heard: list[tuple[Message, list[int]]] = []
        self.ended = self.broken = 0
        self.raw = there
        self.here = Channel(here, lambda message, fds: self.heard.append((message, fds)), self._end, self._broken)

    def _end(self) -> None:
        self.ended += 1

    def _broken(self, error: ProtocolError) -> None:
        self.broken += 1


async def _until(done: Any) -> None:
    deadline = asyncio.get_running_loop().time() + 10
    while not done():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.005)


async def test_descriptors_travel_with_their_message() -> None:
    ends, other = Ends(), Ends()
    other.raw.close()
    there = Channel(ends.raw, lambda message, fds: None, lambda: None, lambda error: None)
    read, write = os.pipe()
    there.send(Stop(), [write])
    os.close(write)
    there.send(Publish({"big": "x" * 300_000}), [read])
    await _until(lambda: len(ends.heard) == 2)
    (first, (written,)), (second, (reading,)) = ends.heard
    assert first == Stop() and second == Publish({"big": "x" * 300_000})
    os.write(written, b"through")
    assert os.read(reading, 10) == b"through"
    for descriptor in (written, reading, read):
        os.close(descriptor)
    there.close()
    await _until(lambda: ends.ended == 1)
    ends.here.close()


@pytest.mark.parametrize("data", [b"nonsense", b'["Stop", 5, 5, 5]', b"\0", b"x" * 30_000])
async def test_nonsense_is_broken_and_keeps_no_descriptor(data: bytes) -> None:
    ends = Ends()
    read, write = os.pipe()
    socket.send_fds(ends.raw, [data], [write])
    os.close(write)
    await _until(lambda: ends.broken == 1)
    assert os.read(read, 1) == b"", "the descriptor that came with it is closed"
    os.close(read)
    ends.here.close()
    ends.raw.close()


async def test_other_end_that_does_not_read() -> None:
    """Bounded, and told once per message too many; nothing blocks."""
    ends = Ends()
    for _ in range(channel.MOST_QUEUED + 2000):
        ends.here.send(Publish({"x": "y" * 100}))
    assert ends.broken > 0
    ends.here.close()
    ends.raw.close()
