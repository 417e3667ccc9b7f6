"""Listeners that come and go, the end, and what the process is made of."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

import pytest

from balancer.admin import runner
from balancer.config import Admin as Section
from balancer.errors import LayoutError
from balancer.table.table import ConfigTable, Row
from tests.helpers.http import connected, get
from tests.helpers.ports import address, free_port
from tests.helpers.table import Table
from tests.unit.balancer.admin.conftest import Start, accepts, eventually


async def test_a_taken_port_is_a_warning_and_tried_again(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "FIRST_RETRY", 0.02)
    monkeypatch.setattr(runner, "LAST_RETRY", 0.1)
    other, port = free_port(), free_port()
    with socket.create_server(("127.0.0.1", port)):
        admin = await start(listen=[address("127.0.0.1", port), address("127.0.0.1", other)])
        await eventually("the other address", lambda: accepts(("127.0.0.1", other)))
        await asyncio.sleep(0.5)
        (line,) = admin.lines
        assert f"127.0.0.1:{port}" in line
        assert "in use" in line
    await eventually("served when it is free", lambda: admin.lines[1:])
    assert (await admin.get("/healthz")).status == 200
    assert len(admin.lines) == 2


async def test_an_absent_address_is_a_warning(start: Start) -> None:
    port = free_port()
    admin = await start(listen=[address("192.0.2.1", 80), address("127.0.0.1", port)], allow=["0.0.0.0/0"])
    await eventually("the other address", lambda: accepts(("127.0.0.1", port)))
    (line,) = admin.lines
    assert "192.0.2.1:80" in line
    assert not admin.task.done()


async def test_nowhere(start: Start) -> None:
    admin = await start(listen=[address("127.0.0.1", free_port())])
    await eventually("listening", lambda: accepts(admin.where))
    where = admin.where
    admin.configure(listen=())
    await eventually("closed", lambda: refuses(where))
    assert not admin.task.done()


async def refuses(where: tuple[str, int]) -> bool:
    return not await accepts(where)


async def test_changed_addresses_are_obeyed(start: Start) -> None:
    """What stays, stays open; what comes is served; what goes is refused."""
    admin = await start()
    stays, comes = admin.where, ("127.0.0.1", free_port())
    async with connected(stays) as client:
        admin.configure(listen=(address(*stays), address(*comes)))
        await eventually("both", lambda: accepts(comes))
        await client.send(b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n")
        assert b" 200 " in await client.read_until(b"\r\n")
    admin.configure(listen=(address(*comes),))
    await eventually("the first is closed", lambda: refuses(stays))
    assert (await admin.get("/healthz")).status == 200
    admin.configure(listen=(address(*stays),))
    await eventually("and open again", lambda: accepts(stays))


async def test_changed_clients_are_obeyed(start: Start) -> None:
    """Also by those who are being told something."""
    admin = await start()
    async with connected(admin.where) as one, connected(admin.where, source="127.0.0.2") as two:
        for client in (one, two):
            await client.send(b"GET /api/v1/events HTTP/1.1\r\nHost: test\r\n\r\n")
            assert b" 200 " in await client.read_until(b"\r\n")
        admin.configure(allow=("127.0.0.2/32",))
        await one.read_all()
        assert (await admin.get("/healthz")).status == 403
        assert (await admin.get("/healthz", source="127.0.0.2")).status == 200
        admin.happen(1)
        await two.read_until(b"id: 1\n")


async def test_without_a_section_the_defaults_hold(start: Start) -> None:
    """Another process may have the default port here, so only the attempt is seen."""
    admin = await start()
    before = admin.where
    admin.link.tell("config", None, ())
    await eventually("elsewhere", lambda: refuses(before))
    default = Section().listen[0]
    assert str(default) == "127.0.0.1:8053"
    assert await eventually("listening or told why not", lambda: admin.lines or accepts((default.host, default.port)))


async def test_ipv6(start: Start) -> None:
    """Beside the same port of IPv4, which [::] does not take."""
    port = free_port("::", "0.0.0.0")
    admin = await start(listen=[f"[::]:{port}", f"0.0.0.0:{port}"])
    for host, status in (("::1", 200), ("127.0.0.1", 200)):
        await eventually(host, lambda host=host: accepts((host, port)))
        assert (await get((host, port), "/healthz")).status == status
    assert admin.lines == []


async def test_the_end_waits_for_nobody(start: Start) -> None:
    """Idle connections, half requests, streams and answers that nobody takes: the end comes all the same."""
    admin = await start({"dns": [f"s{number}" for number in range(256)]})
    whole = b"GET %s HTTP/1.1\r\nHost: test\r\n\r\n"
    async with connected(admin.where), connected(admin.where) as half, connected(admin.where) as stream, \
            connected(admin.where, receive=4096) as deaf:
        await half.send(b"GET /heal")
        await stream.send(whole % b"/api/v1/events")
        await stream.read_until(b"\r\n")
        deaf.writer.transport.pause_reading()
        await deaf.send(whole % b"/metrics")
        await asyncio.sleep(0.2)
        await admin.stop()
        assert await refuses(admin.where)
        await half.read_all()
        await stream.read_all()


def test_what_it_is_made_of() -> None:
    """Only what it needs: no packets, no DNS, nothing that could forward."""
    code = "import sys, balancer.process.hosting, balancer.admin.runner; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"aiohttp", "prometheus_client"} <= set(modules)
    assert not {"scapy", "dns", "rich", "balancer.datapath", "balancer.schedule", "balancer.cli"} & set(modules)
    assert not any(name.startswith("balancer.process.s") for name in modules), "nor what the supervisor does"


def test_the_table_cannot_be_written() -> None:
    with Table({"dns": ["a"]}) as table:
        for descriptor, kind in zip(table.view_fds, (ConfigTable, Row, Row), strict=True):
            with pytest.raises(LayoutError):
                kind(descriptor, True)
        with pytest.raises(LayoutError):
            table.view.config.set_weight(0, 0, 5, 0)
