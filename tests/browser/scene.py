"""An admin process with something to show: its real main on a loop of its own, the test in everybody else's place.

The table is a real one whose counters the scene moves; facts and snapshots are those of a host in production.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Self

import uvloop

from balancer.admin.history import MOST_POINTS, STEP
from balancer.admin.runner import main
from balancer.component import Event, Host
from balancer.config import Admin
from balancer.table.table import Row, allocate, read_only
from balancer.table.verdicts import DOWN, UP, Found, Verdicts, verdicts_size
from tests.helpers.link import MemoryLink
from tests.helpers.ports import free_port
from tests.helpers.table import Table
from tests.helpers.waiting import wait_for

SECOND_NS = 1_000_000_000
TICK = 0.1
SERVERS = ("ns7c1", "ns7c2")
ZONES = ("tt.co.kr", "example.co.kr", "shop.example", "66.47.211.in-addr.arpa")
LISTEN = "211.47.66.90:53"


def hour(now: float) -> dict[str, Any]:
    """What a predecessor has kept: an hour with a busy minute and a short trouble."""
    steps = range(MOST_POINTS)
    wave = [1150 + 180 * math.sin(step / 80) + 30 * math.sin(step * 1.7) + 20 * math.sin(step * 2.9) for step in steps]
    return {"format": 1, "looked": now, "states": [], "hour": [{
        "name": "ns7", "time": [round(now - STEP * (MOST_POINTS - step), 1) for step in steps],
        "queries": [round(rate + (350 if 300 < step < 318 else 0), 1) for step, rate in zip(steps, wave, strict=True)],
        "unanswered": [12.0 if 500 < step < 505 else 0.0 for step in steps],
        "p50": [0.00021 + 0.00001 * math.sin(step / 9) for step in steps],
        "p99": [0.0009 + 0.0001 * math.sin(step * 1.3) + (0.003 if 500 < step < 506 else 0) for step in steps]}]}


class Scene:
    """A context manager. `down`: slots whose probes fail; `rates`: queries per second to each slot."""

    def __init__(self, servers: tuple[str, ...] = SERVERS, reason: str = "no answer to 3 probes within 0.5 s") -> None:
        self.names, self.reason = servers, reason
        self.down: set[int] = set()
        self.rates = [600.0] * len(servers)
        self.port = free_port()
        self.now = time.time()
        self.link = MemoryLink()
        self.table = Table({"ns7": servers})
        self._verdicts_fd = allocate("test-verdicts", verdicts_size())
        self._verdicts_view = read_only(self._verdicts_fd)
        self._verdicts = Verdicts(self._verdicts_fd, True, True)
        self.table.view.verdicts = Verdicts(self._verdicts_view)
        self._row = Row(self.table.row_fds[1], True)
        self._begin_ns = time.monotonic_ns()
        self._thread = threading.Thread(target=self._run, name="scene", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._ready = threading.Event()
        self._numbers = iter(range(1, 10**9))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self.table.__exit__()
        os.close(self._verdicts_fd)
        os.close(self._verdicts_view)

    def stop(self) -> None:
        """The admin process ends; what it has shown stays where it was."""
        if self._thread.is_alive():
            self.tell("stop")
            self._thread.join(20)
            assert not self._thread.is_alive()

    def restart(self) -> None:
        """And its successor begins."""
        self._ready.clear()
        self._thread = threading.Thread(target=self._run, name="scene", daemon=True)
        self.__enter__()

    def _run(self) -> None:
        uvloop.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        section = Admin(listen=(f"127.0.0.1:{self.port}",))
        admin = asyncio.create_task(main(Host(section, "ns7c0", (), self.table.view, self.link, hour(self.now), {},
                                              time.monotonic, print, "/nonexistent")))
        await asyncio.sleep(0)
        self._facts()
        ticking = asyncio.create_task(self._tick())
        self._ready.set()
        await admin
        ticking.cancel()

    async def _tick(self) -> None:
        left = [0.0] * len(self.names)
        beats = 0
        while True:
            now, beats = time.monotonic_ns(), beats + 1
            self._verdicts.beat(now)
            for entry in self.table.config.servers(0):
                down = entry.slot in self.down
                found = Found(DOWN if down else UP, self._begin_ns, 0, now, 400_000, self.reason if down else "")
                for proto in (0, 1):
                    self._verdicts.write(0, entry.slot, entry.identity, proto, found)
                left[entry.slot] += 0 if down else self.rates[entry.slot] * TICK
                count = int(left[entry.slot])
                left[entry.slot] -= count
                self._count(entry.slot, count, beats)
            await asyncio.sleep(TICK)

    def _count(self, slot: int, count: int, beats: int) -> None:
        missing = count // 30
        buckets = [count // 8, count // 2, count - count // 8 - count // 2 - count // 60, count // 60] + [0] * 11
        self._row.add_server(0, slot, {
            "queries": count, "latency": buckets, "resends": int(beats % 10 == 0 and bool(self.down)),
            "answers": {"NOERROR": count - missing - (beats % 20 == 0), "NXDOMAIN": missing,
                        "SERVFAIL": int(beats % 20 == 0)}})
        self._row.add_service(0, {"queries": count, "answers": count})

    def tell(self, what: str, *arguments: Any) -> None:
        """As the supervisor would."""
        done = threading.Event()

        def call() -> None:
            self.link.tell(what, *arguments)
            done.set()

        self._loop.call_soon_threadsafe(call)
        assert done.wait(20)

    def happen(self, kind: str, subject: str, before: str, after: str, reason: str, ago: float = 0.0) -> None:
        number = f"{next(self._numbers):020d}"
        self.tell("event", Event(time.time() - ago, kind, subject, before, after, reason, number))

    def facts(self, **changes: Any) -> None:
        """The supervisor's facts, with changes."""
        self.tell("snapshot", "", {**self.supervisor(), **changes})

    def supervisor(self) -> dict[str, Any]:
        return {
            "version": "0.1.0", "node": "ns7c0", "roles": ["balancer", "health", "failover", "sync"], "pid": 812,
            "uptime": 3 * 86400.0 + 4000, "configured": self.now - 5000, "generation": 3, "ready": True,
            "standing": "active", "fingerprint": "24fb9262777c427b", "worker_restarts": 0, "retiring": 0, "live": [],
            "workers": [{"worker": number, "pid": 815 + number, "restarts": 0, "listening": True,
                         "heartbeat_age": 0.04, "inflight": 1} for number in range(2)],
            "socket_drops": {"ns7": {LISTEN: 0}}, "listen": {"ns7": [LISTEN]},
            "processes": {name: {"pid": 1, "running": True, "restarts": 0}
                          for name in ("admin", "alert", "health", "failover", "sync")}}

    def _facts(self) -> None:
        tell: Callable[..., None] = self.link.tell
        tell("snapshot", "", self.supervisor())
        tell("snapshot", "failover", {
            "active": True, "state": "active", "since": self.now - 260_000, "priority": 200, "wish": "auto",
            "fit": True, "why": "", "node": "ns7c0", "addresses": ["211.47.66.90"], "interface": "eth0",
            "virtual_router_id": 7, "interval": 0.3, "peer": "211.47.66.88", "peer_priority": 100, "peer_age": 5.0,
            "heard": 1, "troubles": [], "counts": {}, "at": 1.0, "frames": {},
            "directors": {"ns7c1": {"fit": True, "why": "", "state": "standby", "active": False, "age": 0.5,
                                    "version": "0.1.0", "fingerprint": "24fb9262777c427b"}}})
        tell("snapshot", "health", {
            "targets": 2, "zones": len(ZONES), "master": {"name": "ns7c1", "verdict": "up"}, "behind": [], "changes": 4,
            "probes": {"udp good": 519_203, "tcp good": 519_190},
            "serials": [{"server": f"ns7/{server}", "zone": zone, "serial": 2026112501}
                        for zone in ZONES for server in SERVERS]})
        tell("snapshot", "sync", {
            "role": "publish", "generation": 4711, "zones": len(ZONES), "time": self.now - 9000, "state": "current",
            "reason": "", "last_success": self.now - 9000, "counters": {},
            "pullers": [{"puller": "211.47.66.89:8053", "generation": 4711, "state": "current", "reason": "",
                         "behind": 0.0}]})

    def history(self) -> None:
        """A day with some events."""
        for number, event in enumerate([
            ("config", "/etc/ns7/ns7.toml", "", "applied", "weight of ns7c2, by anna"),
            ("server", "ns7/ns7c2", "up", "down", "no answer to 3 probes within 0.5 s"),
            ("server", "ns7/ns7c2", "down", "up", "answers again"),
            ("zone", "ns7/ns7c2 shop.example", "current", "behind", "serial 2026112500, the master has 2026112501"),
            ("zone", "ns7/ns7c2 shop.example", "behind", "current", "serial 2026112501"),
            ("worker", "worker 0", "", "restarted", "killed by signal 9"),
            ("sync", "refresh", "", "applied", "generation 4711: 1 zone changed"),
        ]):
            self.happen(*event, ago=2800.0 * (7 - number))

    def trouble(self) -> None:
        """A server dies, a zone is behind, no standby is heard, somebody has changed a weight."""
        self.down.add(1)
        self.facts(live=[{"service": "ns7", "server": "ns7c2", "what": "weight", "value": 2, "user": "anna",
                          "time": self.now - 4000, "node": "ns7c0", "lifted": False, "saved": False, "idle": ""}])
        self.tell("snapshot", "health", {
            "targets": 2, "zones": 1, "master": {"name": "ns7c1", "verdict": "up"}, "changes": 5, "probes": {},
            "serials": [{"server": f"ns7/{server}", "zone": ZONES[2], "serial": 2026112501 - number}
                        for number, server in enumerate(SERVERS)],
            "behind": [{"server": "ns7/ns7c2", "zone": ZONES[2], "state": "behind", "behind": 42.0}]})
        self.tell("snapshot", "alert", {"open": [
            {"id": 3, "kind": "server", "subject": "ns7/ns7c2", "state": "down", "since": self.now, "reason": "",
             "acked": False, "flapping": False, "changes": 0},
            {"id": 4, "kind": "standby", "subject": "director", "state": "missing", "since": self.now,
             "reason": "no other director is heard", "acked": False, "flapping": False, "changes": 0}]})
        self.happen("server", "ns7/ns7c2", "up", "down", self.reason)


def serving(scene: Scene) -> None:
    """Until it listens."""
    def listening() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", scene.port)) == 0

    wait_for("the admin process listens", listening)
