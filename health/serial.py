"""Serial numbers of zones: RFC 1982 arithmetic. Pure."""

from __future__ import annotations

HALF = 1 << 31


def distance(old: int, new: int) -> int:
    """How far `new` is ahead of `old` (RFC 1982 §3.2): negative when it is behind; -2³¹ when nobody can tell."""
    return (new - old + HALF) % (1 << 32) - HALF


def is_behind(served: int, master: int) -> bool:
    """Whether `served` is older than `master`. Two serials 2³¹ apart have no order: then neither is."""
    return distance(served, master) > 0
