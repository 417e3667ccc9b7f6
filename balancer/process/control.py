"""The control socket: one JSON request per line, one JSON answer per line. Runs in the supervisor.

The socket's file permissions are the access control. A line is at most 64 kB; a client that does not read its
answer is cut off, one that sends nothing costs one open descriptor until it does. A request is answered before the
next one of the same client is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from balancer.errors import ControlError, Ns7Error, StartError

LONGEST_LINE = 65536
MOST_CLIENTS = 64
PATIENCE = 10.0             # seconds for a client to send its request or take its answer
LONGEST_ANSWER = 600.0      # seconds that an answer may take, whatever the client asks for

Answer = Callable[[str, dict[str, Any], str], Awaitable[Any]]


class Control:
    """Answers requests {"verb": NAME, …} with {"ok": true, "result": …} or {"ok": false, "error": …}.

    `answer(verb, request, user)` gives the result or raises Ns7Error; user is whose process asks (SO_PEERCRED).
    """

    def __init__(self, path: str, answer: Answer) -> None:
        self._path = Path(path)
        self._answer = answer
        self._clients = self._answering = 0
        self._users: dict[int, str] = {}
        self._server: asyncio.Server | None = None
        self._socket: socket.socket | None = None

    @property
    def path(self) -> str:
        return str(self._path)

    @property
    def listener(self) -> socket.socket:
        """What we listen on."""
        assert self._socket is not None
        return self._socket

    async def start(self, inherited: socket.socket | None = None) -> None:
        """Listen, or go on where a predecessor listened.

        A stale socket file is replaced, a living one is somebody else's.
        """
        try:
            if inherited is not None:
                await self._listen(inherited)
                return
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            if self._path.is_socket():
                try:
                    _, writer = await asyncio.open_unix_connection(str(self._path))
                    writer.close()
                    raise StartError(f"another ns7 answers on {self._path}")
                except OSError:
                    self._path.unlink()
            one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            mask = os.umask(0o117)
            try:
                one.bind(str(self._path))
            finally:
                os.umask(mask)
            await self._listen(one)
        except OSError as error:
            raise StartError(f"cannot listen on control socket {self._path}: {error.strerror}") from error

    async def _listen(self, one: socket.socket) -> None:
        self._socket = one
        self._server = await asyncio.start_unix_server(self._serve, sock=one, limit=LONGEST_LINE)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        user = ""
        try:
            while self._clients <= MOST_CLIENTS:
                line = await asyncio.wait_for(reader.readline(), PATIENCE)
                if not line.endswith(b"\n"):
                    break
                user = user or await self._user(writer.get_extra_info("socket"))
                self._answering += 1
                try:
                    writer.write(json.dumps(await self._reply(line, user)).encode() + b"\n")
                    await asyncio.wait_for(writer.drain(), PATIENCE)
                finally:
                    self._answering -= 1
        except (TimeoutError, ValueError, OSError):     # too slow, a line too long, gone
            pass
        except RuntimeError:                            # uvloop's word for gone, when what was read ahead is taken up
            if not writer.is_closing():
                raise
        finally:
            self._clients -= 1
            writer.close()

    async def _user(self, peer: socket.socket) -> str:
        """The name of the user at the other end; asking for it may take a directory server's time, so once only."""
        _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in self._users:
            self._users[uid] = await asyncio.to_thread(_user_name, uid)
        return self._users[uid]

    async def _reply(self, line: bytes, user: str) -> dict[str, Any]:
        try:
            request = json.loads(line)
            verb = request["verb"]
        except (ValueError, TypeError, KeyError, RecursionError):
            verb = None
        if not isinstance(verb, str):
            return {"ok": False, "error": 'not a request: {"verb": NAME, …} in one line'}
        try:
            async with asyncio.timeout(LONGEST_ANSWER):
                return {"ok": True, "result": await self._answer(verb, request, user)}
        except TimeoutError:
            return {"ok": False, "error": str(ControlError(f"{verb}: not done within {LONGEST_ANSWER:g} s"))}
        except Ns7Error as error:
            return {"ok": False, "error": str(error)}

    async def settle(self, seconds: float = 1.0) -> None:
        """Until whoever asked has an answer, at most so long."""
        deadline = asyncio.get_running_loop().time() + seconds
        while self._answering and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)

    def hand_over(self) -> None:
        """Listen no more; a successor does, on the same socket."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def close(self) -> None:
        """Stop listening and take the socket file away."""
        if self._server is not None:
            self.hand_over()
            with contextlib.suppress(OSError):
                self._path.unlink()


def _user_name(uid: int) -> str:
    """As the system has it; its number where it has none, or none that is printable ASCII."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = ""
    return name if name.isascii() and name.isprintable() and 0 < len(name) < 64 else f"uid {uid}"
