"""Choices out of a fuzz input: numbers and byte strings, zero and empty behind its end. Pure."""

from __future__ import annotations


class Choices:
    """Reads `data` from the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return self._at < len(self._data)

    def bytes(self, count: int) -> bytes:
        """Up to `count` bytes."""
        part = self._data[self._at:self._at + count]
        self._at += count
        return part

    def number(self, count: int = 1) -> int:
        return int.from_bytes(self.bytes(count), "big")

    def below(self, limit: int) -> int:
        """0 to limit - 1, from one byte."""
        return self.number() % limit

    def block(self) -> bytes:
        """A byte string with its length (two bytes) before it."""
        return self.bytes(self.number(2))
