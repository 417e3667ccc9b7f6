"""The socket over which directors tell each other their status. Runs in the failover process; see status.py.

Beside each status travels the supervisor's live state (what operators have changed while ns7 runs): who has another
one sends its own in pieces, and what arrives is given to the supervisor, which knows which is the newer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from balancer import __version__
from balancer.component import WARNING, Host
from balancer.errors import ControlError
from failover import frames
from failover.peers import Peers
from failover.status import KEY_BYTES, LARGEST, Exchange, Rejected
from failover.tasks import Tasks
from failover.wire import Plan

READ_AT_ONCE = 64
ASK_WAIT = 2.0                  # seconds for the supervisor's answer

Trouble = Callable[[str, str, str, str, str], None]


def _read_key(path: str) -> tuple[bytes, str]:
    """The key, or why there is none."""
    try:
        key = Path(path).read_bytes().strip()
    except OSError as error:
        return b"", f"{path}: {error.strerror}"
    return (key, "") if len(key) >= KEY_BYTES else (b"", f"{path} has less than {KEY_BYTES} bytes")


class Statuses:
    """Tells and hears. `counts`, `trouble(kind, subject, before, after, reason)` and `tasks` are the owner's."""

    def __init__(self, host: Host, counts: Counter[str], trouble: Trouble, tasks: Tasks) -> None:
        self._host, self._counts, self._trouble, self._tasks = host, counts, trouble, tasks
        self._loop = asyncio.get_running_loop()
        self._peers = Peers(host.clock(), host.snapshot.get("told", {}))
        self._exchange: Exchange | None = None
        self._socket: socket.socket | None = None
        self._targets: list[tuple[Any, ...]] = []
        self._opened: object = None
        self._why = ""
        self._live: dict[str, Any] | None = None

    def configure(self, config: Any, plan: Plan) -> None:
        """Open the socket anew when what it depends on has changed, the key too. Called each second."""
        key, why = _read_key(config.key_file) if config.key_file else (b"", "")
        wanted: object = (key, config.status_port, plan)
        if wanted != self._opened:
            self.close()
            if key:
                try:
                    self._open(plan, config.status_port)
                    self._exchange = Exchange(key, self._host.node, secrets.token_hex(8))
                except OSError as error:
                    self.close()
                    wanted, why = None, f"port {config.status_port}: {error.strerror}"
            self._opened = wanted
        if why != self._why and why:
            self._host.log(f"{WARNING}no status of other directors: {why}")
        self._why = why

    def _open(self, plan: Plan, port: int) -> None:
        version = 4 if plan.source(4) is not None and (plan.others(4) or not plan.others(6)) else 6
        others = plan.others(version)
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        one = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket = one
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, plan.interface.encode())
        if version == 4:
            member = struct.pack("=4s4si", frames.GROUP4.packed, bytes(4), plan.index)
            one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, member)
            if not others:
                one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            one.bind((str(plan.source(4)) if others else "", port))
            self._targets = [(str(to), port) for to in others or (frames.GROUP4,)]
        else:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, plan.index)
            if not others:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP,
                               frames.GROUP6.packed + struct.pack("=i", plan.index))
            one.bind(("", port, 0, 0))
            self._targets = [(str(to), port, 0, plan.index) for to in others or (frames.GROUP6,)]
        self._loop.add_reader(one.fileno(), self._readable)

    def tick(self, facts: dict[str, Any], active: bool) -> None:
        """Tell; and say what is to be said of the others."""
        if self._exchange is None:
            return
        now = self._host.clock()
        self._tasks.spawn(self._fetch_live())
        digest = "" if self._live is None else str(self._live.get("digest", ""))
        facts = {**facts, "version": __version__, "live": digest, "clock": time.time()}
        self._send(self._exchange.tell(facts))
        behind = [node for node in self._peers.alive(now) if self._peers.facts[node].get("live") not in (digest, None)]
        if behind and self._live is not None:
            for datagram in self._exchange.tell_text(facts, digest, json.dumps(self._live)):
                self._send(datagram)
        for news in self._peers.news(active, facts["fingerprint"], now):
            self._trouble(*news)

    def _send(self, datagram: bytes) -> None:
        assert self._socket is not None
        for target in self._targets:
            try:
                self._socket.sendto(datagram, target)
                self._counts["sent statuses"] += 1
            except OSError:                     # nobody there, no route, link down: told by their silence
                self._counts["unsent statuses"] += 1

    def _readable(self) -> None:
        for _ in range(READ_AT_ONCE):
            if self._socket is None or self._exchange is None:
                return
            try:
                datagram = self._socket.recv(LARGEST + 1)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:                     # a refusal of what we sent
                continue
            try:
                told = self._exchange.read(datagram)
            except Rejected as rejected:
                self._counts[f"unbelieved {rejected.reason}"] += 1
                continue
            if told is not None:
                self._counts["received statuses"] += 1
                clock = told.facts.get("clock")
                skew = {"skew": round(clock - time.time(), 3)} if isinstance(clock, float) else {}
                self._peers.take(told.node, {**told.facts, **skew}, self._host.clock())
                if told.text is not None:
                    self._tasks.spawn(self._adopt(told.node, told.text))

    # The live state of the supervisor

    async def _fetch_live(self) -> None:
        with contextlib.suppress(ControlError):
            self._live = dict(await self._host.channel.request("", "live", {}, ASK_WAIT))

    async def _adopt(self, node: str, text: str) -> None:
        try:
            value = json.loads(text)
            if not isinstance(value, dict):
                raise ValueError("no live state")
            self._live = dict(await self._host.channel.request("", "adopt", value, ASK_WAIT))
        except (ValueError, RecursionError, ControlError) as error:
            self._host.log(f"{WARNING}the live state of {node} is not taken: {error}")

    # For the owner

    def alive(self) -> int:
        """How many other directors are heard."""
        return len(self._peers.alive(self._host.clock()))

    @property
    def told(self) -> dict[str, Any]:
        """Of the others, for a successor."""
        return self._peers.told

    def shown(self) -> dict[str, Any]:
        """Their statuses by node, with the age in seconds."""
        return dict(self._peers.shown(self._host.clock()))

    def close(self) -> None:
        """Hear and tell nothing any more."""
        if self._socket is not None:
            with contextlib.suppress(OSError, ValueError):
                self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
        self._socket = self._exchange = None
