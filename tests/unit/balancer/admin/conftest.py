"""Starts the admin process's main in the test's own loop, uvloop, with the test in the supervisor's place."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest
import uvloop

from balancer.admin.runner import main
from balancer.component import Event, Host
from balancer.config import Admin as Section
from tests.helpers.http import Answer, connected, get
from tests.helpers.link import MemoryLink
from tests.helpers.ports import address, free_port
from tests.helpers.table import Table
from tests.helpers.waiting import PATIENCE

FACTS = {"version": "1.2.3", "pid": 4711, "generation": 1, "ready": True, "worker_restarts": 3,
         "workers": [{}, {}], "live": [{"service": "ns7", "server": "one", "time": 1.0}],
         "processes": {"admin": {"running": True}, "alert": {"running": False}},
         "socket_drops": {"one": {"[2001:db8::2]:53": 7}},
         "listen": {"dns": ["192.0.2.1:53"], "one": ["192.0.2.2:53", "[2001:db8::2]:53"]}}


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


async def eventually(what: str, probe: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """`wait_for` for a loop that must go on; `probe` may be a coroutine function."""
    deadline = time.monotonic() + seconds
    while True:
        result = probe()
        if isinstance(result, Awaitable):
            result = await result
        if result:
            return result
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        await asyncio.sleep(0.02)


async def accepts(where: tuple[str, int]) -> bool:
    """Whether somebody listens there."""
    try:
        async with connected(where):
            return True
    except OSError:
        return False


class Admin:
    """One running admin process; `where` is its (first) address."""

    def __init__(self, table: Table, listen: Sequence[str], allow: Sequence[str], kept: Mapping[str, Any]) -> None:
        self.table, self.link, self.lines = table, MemoryLink(), list[str]()
        self.section = Section(listen=tuple(listen), allow=tuple(allow))
        host = Host(self.section, "test", (), table.view, self.link, kept, {}, time.monotonic, self.lines.append,
                    "/nonexistent")
        self.task = asyncio.create_task(main(host))

    @property
    def where(self) -> tuple[str, int]:
        host, port = self.section.listen[0]
        return host, port

    async def get(self, path: str, method: str = "GET", **options: Any) -> Answer:
        return await get(self.where, path, method, **options)

    def configure(self, **changes: Any) -> None:
        """What a reload with a changed [admin] does."""
        self.section = Section(**{"listen": tuple(map(str, self.section.listen)),
                                  "allow": tuple(map(str, self.section.allow)), **changes})
        self.link.tell("config", self.section, ())

    def happen(self, ident: int, reason: str = "") -> None:
        self.link.tell("event", Event(1e9 + ident, "server", "dns/a", "up", "down", reason, str(ident)))

    async def stop(self) -> None:
        if not self.task.done():
            self.link.tell("stop")
        await asyncio.wait_for(self.task, PATIENCE)


Start = Callable[..., Awaitable[Admin]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Makes admin processes: await start({service: [server, …]}, workers=…, listen=…, allow=…, facts=…)."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(
            services: Mapping[str, Sequence[str]] | None = None, *, workers: int = 1,
            listen: Sequence[str] | None = None, allow: Sequence[str] = ("127.0.0.0/8", "::1/128"),
            facts: Mapping[str, Any] = FACTS, kept: Mapping[str, Any] | None = None,
        ) -> Admin:
            table = stack.enter_context(Table(services or {"dns": ["a", "b"]}, workers))
            admin = Admin(table, listen or [address("127.0.0.1", free_port())], allow, kept or {})
            stack.push_async_callback(admin.stop)
            await asyncio.sleep(0)
            admin.link.tell("snapshot", "", facts)
            if listen is None:
                await eventually("listening", lambda: accepts(admin.where))
            return admin

        yield make
