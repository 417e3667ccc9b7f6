"""Framing: whole, byte by byte, with a tail, and what can never be a message."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.datapath.framing import Reader

MESSAGES = st.lists(st.binary(min_size=12, max_size=300), max_size=20)


def framed(*messages: bytes) -> bytes:
    return b"".join(struct.pack("!H", len(message)) + message for message in messages)


@given(MESSAGES)
def test_whole(messages: list[bytes]) -> None:
    reader = Reader()
    assert reader.feed(framed(*messages)) == messages
    assert reader.kept == 0


@given(MESSAGES)
def test_byte_by_byte(messages: list[bytes]) -> None:
    reader = Reader()
    found = [message for byte in framed(*messages) for message in reader.feed(bytes([byte]))]
    assert found == messages
    assert reader.kept == 0


@given(MESSAGES, st.integers(0, 301))
def test_with_a_tail(messages: list[bytes], cut: int) -> None:
    """What is unfinished is kept, and nothing else."""
    tail = framed(b"t" * 300)[:cut]
    reader = Reader()
    assert reader.feed(framed(*messages) + tail) == messages
    assert reader.kept == len(tail)
    assert reader.feed(framed(b"t" * 300)[cut:]) == [b"t" * 300]
    assert reader.kept == 0


@given(MESSAGES, st.lists(st.integers(0, 6000), max_size=20))
def test_cut_anywhere(messages: list[bytes], cuts: list[int]) -> None:
    data = framed(*messages)
    places = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    reader = Reader()
    found = [message for start, end in pairwise(places)
             for message in reader.feed(data[start:end])]
    assert found == messages


def test_a_hundred_messages_in_one_segment() -> None:
    messages = [bytes([number]) * 12 for number in range(100)]
    assert Reader().feed(framed(*messages)) == messages


def test_longest_message() -> None:
    reader = Reader()
    longest = framed(b"x" * 65535)
    assert reader.feed(longest[:-1]) == []
    assert reader.kept == 65536
    assert reader.feed(longest[-1:] + b"\0") == [b"x" * 65535]
    assert reader.kept == 1


@pytest.mark.parametrize("announced", range(12))
def test_shorter_than_a_header(announced: int) -> None:
    """It is known from the prefix alone; what came before is still a message, nothing after it is."""
    reader = Reader()
    assert reader.feed(framed(b"m" * 12) + struct.pack("!H", announced)) == [b"m" * 12]
    assert reader.broken
    assert reader.kept == 0
    assert reader.feed(framed(b"m" * 12)) == []


@given(st.binary(max_size=2000))
def test_any_bytes(data: bytes) -> None:
    """Whatever comes: messages in order, at least a header each, and no more kept than was fed."""
    reader = Reader()
    messages = reader.feed(data)
    assert framed(*messages) == data[: len(framed(*messages))]
    assert all(len(message) >= 12 for message in messages)
    if not reader.broken:
        assert reader.kept == len(data) - len(framed(*messages))
