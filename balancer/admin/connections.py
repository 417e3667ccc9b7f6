"""The clients' connections, each bounded in time and memory, all in number. Runs in the admin process.

A connection that waits for a whole request, or for its client to take the rest of an answer, is idle, and is closed
after `PATIENCE`. When there are too many the one idle longest is closed, so idle ones keep nobody out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

from aiohttp import web

from balancer.admin.http import Page
from balancer.admin.replies import cut, problem

MOST_CONNECTIONS = 1100
PATIENCE = 20.0
SWEEP = 1.0                 # seconds between two looks for connections idle too long
LONGEST_LINE = 4096         # bytes of a request line, and of a header
MOST_HEADERS = 64
MOST_AHEAD = 32 << 10       # bytes that a client may send before the request they belong to is answered
LINGER = 2.0                # seconds that a request's body, which nobody wants, is read away

Network = IPv4Network | IPv6Network


class Connections(web.Server):
    """The factory of protocols that a listening socket is given; nobody is served before `allow`."""

    def __init__(self, page: Page) -> None:
        super().__init__(
            self._serve, handler_cancellation=True, access_log=None, max_line_size=LONGEST_LINE,
            max_field_size=LONGEST_LINE, max_headers=MOST_HEADERS, lingering_time=LINGER, auto_decompress=False)
        self._allow: tuple[Network, ...] = ()
        self._page = page
        self._open: dict[web.RequestHandler, asyncio.Transport] = {}
        self._idle: dict[web.RequestHandler, float] = {}        # since when; the longest first
        self._sweep()

    def __call__(self) -> web.RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._open[handler] = transport
        self._idle[handler] = self._loop.time()
        if len(self._open) > MOST_CONNECTIONS:
            self._cut(next(iter(self._idle)))       # the new one itself, if all others are busy

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._open.pop(handler, None)
        self._idle.pop(handler, None)

    def _cut(self, handler: web.RequestHandler) -> None:
        self._idle.pop(handler)
        self._open.pop(handler).abort()

    def _sweep(self) -> None:
        long_ago = self._loop.time() - PATIENCE
        for handler, since in list(self._idle.items()):
            if since > long_ago:
                break
            self._cut(handler)
        self._sweeping = self._loop.call_later(SWEEP, self._sweep)

    def allow(self, networks: Iterable[Network]) -> None:
        """From now on serve these clients only, and end what others are being told."""
        self._allow = tuple(networks)
        for handler, transport in self._open.items():
            if not self._allowed(handler):
                transport.abort()

    async def close(self, timeout: float) -> None:
        """Let running answers end within `timeout`, and close all connections."""
        self._sweeping.cancel()
        self.pre_shutdown()
        await self.shutdown(timeout)
        for transport in self._open.values():
            transport.abort()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        handler = request.protocol
        assert isinstance(handler, Connection)
        self._idle.pop(handler, None)
        handler.ahead = 0
        try:
            response = await (self._page(request) if self._allowed(handler) else self._forbidden(request))
            try:
                async with asyncio.timeout(PATIENCE):
                    await response.prepare(request)
                    await response.write_eof()
            except TimeoutError:
                cut(request)
            return response
        finally:
            if handler in self._open:
                self._idle[handler] = self._loop.time()

    def _allowed(self, handler: web.RequestHandler) -> bool:
        peer = handler.peername                 # None when the client has gone already
        address = ip_address(str(peer[0]).partition("%")[0]) if peer else None
        return address is not None and any(address in network for network in self._allow)

    async def _forbidden(self, request: web.BaseRequest) -> web.StreamResponse:
        response = problem(403, f"{request.remote} is not among the clients of admin.allow")
        response.force_close()
        return response


class Connection(web.RequestHandler):
    """One connection. Its errors are told in our words; logged are ours, never a client's."""

    __slots__ = ("ahead",)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ahead = 0                          # bytes received since the last request began to be answered

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.ahead += len(data)
        if self.ahead > MOST_AHEAD and self.transport is not None:
            self.transport.abort()

    def handle_error(self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None,
                     message: str | None = None) -> web.StreamResponse:
        if isinstance(exc, ConnectionError):
            raise exc                           # the client has gone, which is no error
        if status >= 500:
            self.log_exception("Error handling request from %s", request.remote, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun already")
        response = problem(status, "not understood" if status < 500 else "our mistake; the log says more")
        response.force_close()
        return response
