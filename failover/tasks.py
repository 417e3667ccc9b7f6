"""Work that goes on beside the event that began it; what fails in it is told to the loop, which ends the process."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Tasks:
    """Held until they are done, as asyncio itself does not."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._all: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin it."""
        task = self._loop.create_task(work)
        self._all.add(task)
        task.add_done_callback(self._done)
        return task

    def cancel(self, but: asyncio.Task[Any] | None = None) -> None:
        """End all, one excepted."""
        for task in self._all - {but}:
            task.cancel()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._all.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "a task failed", "exception": error})
