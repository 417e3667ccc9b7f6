"""Waiting with a bound instead of sleeping with hope. Runs in the test process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Far more than any wait needs: two noisy cores must never decide a test.
PATIENCE = 30.0


def wait_for(what: str, probe: Callable[[], T], seconds: float = PATIENCE, every: float = 0.02) -> T:
    """The first true result of `probe`; AssertionError naming `what` and the last result after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        result = probe()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s (last: {result!r})")
        time.sleep(every)


async def until(what: str, probe: Callable[[], object], seconds: float = PATIENCE, every: float = 0.01) -> None:
    """Let the loop run until `probe` is true; AssertionError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        if probe():
            return
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        await asyncio.sleep(every)
