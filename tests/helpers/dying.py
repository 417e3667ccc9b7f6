"""A process that ends at the n-th call that touches the disk: what it leaves must be whole, whatever n is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

CALLS = ((os, "open"), (os, "fsync"), (Path, "open"), (Path, "rename"), (Path, "replace"), (Path, "unlink"))
KILLED = 9


def dies_at(step: int, work: Callable[[], object]) -> bool:
    """Run `work` in a child that is gone just before or just after such a call, the step-th of these moments; False
    when it came to its end before. Call it without other threads."""
    child = os.fork()
    if child == 0:
        _arm(step)
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), f"the child ended with {code}"
    return code == KILLED


def _arm(step: int) -> None:
    left = step

    def moment() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os._exit(KILLED)

    def wrap(call: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*args: object, **kwargs: object) -> object:
            moment()
            result = call(*args, **kwargs)
            moment()
            return result

        return wrapped

    for owner, name in CALLS:
        setattr(owner, name, wrap(getattr(owner, name)))
