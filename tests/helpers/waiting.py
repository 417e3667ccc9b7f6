"""Waiting with a bound instead of sleeping with hope. Runs in the test process."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Far more than any wait needs: two noisy cores must never decide a test.
PATIENCE = 30.0


def wait_for(what: str, probe: Callable[[], T], seconds: float = PATIENCE, every: float = 0.02) -> T:
    """The first true result of `probe`; AssertionError naming `what` and the last result after `seconds`.

    A status names many a thing only when it has come to it: a probe that does not find a key or an item has not yet
    seen what it waits for.
    """
    deadline = time.monotonic() + seconds
    while True:
        last: object
        try:
            last = result = probe()
            if result:
                return result
        except LookupError as missing:
            last = missing
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s (last: {last!r})")
        time.sleep(every)


async def until(what: str, probe: Callable[[], object], seconds: float = PATIENCE, every: float = 0.01) -> None:
    """Let the loop run until `probe` is true, as `wait_for` does; AssertionError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(LookupError):
            if probe():
                return
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        await asyncio.sleep(every)
