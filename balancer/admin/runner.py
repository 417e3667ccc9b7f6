"""Entry of the admin process: listeners that come and go with the configuration and with the host's addresses."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from balancer.admin.connections import Connections
from balancer.admin.events import Events
from balancer.admin.http import Pages
from balancer.admin.overview import Overview
from balancer.admin.snapshots import Snapshots
from balancer.component import WARNING, Host, Service, components
from balancer.config import Admin, Endpoint

FIRST_RETRY, LAST_RETRY = 1.0, 30.0     # seconds
STOP_GRACE = 1.0                        # seconds that running answers may take at the end
SEND_BUFFER = 256 << 10                 # bytes that the kernel keeps for a client that does not read
SWITCH = 0.0005                         # seconds after which a thread that counts makes room for one that answers
DEAF = 20_000                           # milliseconds that a client may take nothing of them


def bound(address: Endpoint) -> socket.socket:
    """A socket to listen on; OSError when it cannot be now."""
    one = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)            # its connections inherit both
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAF)
        if one.family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind((address.host, address.port))
        one.listen()
    except OSError:
        one.close()
        raise
    return one


class Listeners:
    """One task per address, which tries until it listens and closes its socket when it is cancelled."""

    def __init__(self, connections: Connections, log: Callable[[str], None]) -> None:
        self._connections, self._log = connections, log
        self._tasks: dict[Endpoint, asyncio.Task[None]] = {}

    def apply(self, addresses: Iterable[Endpoint]) -> None:
        """Listen on these and on no others."""
        wanted = set(addresses)
        for address in set(self._tasks) - wanted:
            self._tasks.pop(address).cancel()
        for address in wanted - set(self._tasks):
            self._tasks[address] = asyncio.create_task(self._listen(address))

    async def _listen(self, address: Endpoint) -> None:
        server = await self._open(address)
        try:
            await asyncio.Event().wait()
        finally:
            server.close()

    async def _open(self, address: Endpoint) -> asyncio.Server:
        delay, told = FIRST_RETRY, ""
        while True:
            try:
                server = await asyncio.get_running_loop().create_server(self._connections, sock=bound(address))
            except OSError as error:
                reason = error.strerror or str(error)
                if reason != told:
                    self._log(f"{WARNING}cannot listen on {address}/tcp: {reason}, trying again")
                    told = reason
                await asyncio.sleep(delay)
                delay = min(2 * delay, LAST_RETRY)
                continue
            if told:
                self._log(f"listening on {address}/tcp now")
            return server


async def main(host: Host) -> None:
    """Serve until told to stop."""
    sys.setswitchinterval(SWITCH)
    stopped = asyncio.Event()
    snapshots = Snapshots(components().values(), host.log)
    events = Events()
    overview = Overview(host.table, snapshots, events, host.channel.publish, host.snapshot, host.log)
    connections = Connections(Pages(host.table, snapshots, events, overview).answer)
    listeners = Listeners(connections, host.log)

    def on_hand_over() -> Mapping[str, Any]:
        stopped.set()
        return overview.export()

    def on_config(section: Admin | None, _: tuple[Service, ...] = ()) -> None:
        config = section or Admin()
        connections.allow(config.allow)
        listeners.apply(config.listen)

    on_config(host.config)
    host.channel.on_config(on_config)
    host.channel.on_event(events.add)
    host.channel.on_snapshot(snapshots.on_snapshot)
    host.channel.on_stop(stopped.set)
    host.channel.on_hand_over(on_hand_over)
    looking, stopping = asyncio.create_task(overview.run()), asyncio.create_task(stopped.wait())
    await asyncio.wait([looking, stopping], return_when=asyncio.FIRST_COMPLETED)
    if looking.done():
        looking.result()
    looking.cancel()
    listeners.apply(())
    events.close()
    await connections.close(STOP_GRACE)
