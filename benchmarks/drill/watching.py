"""What is seen while things break: events, mails, who answers, how much; and whether anything is lost.

Each watcher is a thread and keeps what it saw with its time: seconds since 1970, as events have it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import socket
import struct
import threading
import time
from typing import Any, NamedTuple

from aiosmtpd.smtp import SMTP, Envelope, Session

from benchmarks.drill.site import DIRECTORS, MAIL_PORT, NAMES, VIP, ZONES, Site
from benchmarks.load import query
from benchmarks.oneshot import Plan, Result, run
from benchmarks.oneshot.record import Record
from tests.helpers.arrival import ANCILLARY, arrived, stamp
from tests.helpers.mail import MailServer
from tests.helpers.network import DEVICE

RATE = 1000.0               # queries per second of the one-shot client
PATIENCE = 2.0              # seconds after which a query is lost
LONGEST = 3600.0            # seconds that a drill may take
SAMPLE = 0.25               # seconds between two looks at the tables
SO_ATTACH_FILTER, ETH_P_IP = 26, 0x0800
# linux/bpf_common.h: load a word, half word or byte at an offset; jump; return.
LOAD, JUMP_EQUAL, RETURN, INSTRUCTION = {4: 0x20, 2: 0x28, 1: 0x30}, 0x15, 0x06, struct.Struct("HBBI")


class Seen(NamedTuple):
    """An event of ns7 on a host."""

    time: float
    host: str
    kind: str
    subject: str
    before: str
    after: str
    reason: str


class Mail(NamedTuple):
    """A mail as it arrived; text is subject and body, one line each."""

    time: float
    subject: str
    text: str


class Sample(NamedTuple):
    """Queries per second that a director sent to a server, until this time."""

    time: float
    qps: dict[tuple[str, str], float]


class Watcher(threading.Thread):
    """A thread that ends when it is told to."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()

    def close(self) -> None:
        self.over.set()
        if self.is_alive():
            self.join(10)


class Events(Watcher):
    """Follows /api/v1/events of one host through every death of its ns7."""

    def __init__(self, site: Site, host: str) -> None:
        super().__init__()
        self._site, self._host = site, host
        self.seen: list[Seen] = []
        self._last = ""

    def run(self) -> None:
        while not self.over.is_set():
            with contextlib.suppress(OSError):
                self._follow()
            self.over.wait(0.05)

    def _follow(self) -> None:
        with self._site.network[self._host].socket(socket.AF_INET, socket.SOCK_STREAM) as one:
            one.settimeout(1)
            one.connect(("127.0.0.1", 8053))
            # HTTP/1.0: no chunks in the stream.
            one.sendall(f"GET /api/v1/events HTTP/1.0\r\nHost: 127.0.0.1:8053\r\nLast-Event-ID: {self._last}\r\n"
                        "\r\n".encode())
            rest = b""
            while not self.over.is_set():
                with contextlib.suppress(TimeoutError):
                    piece = one.recv(65536)
                    if not piece:
                        return
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        if line.startswith(b"data: "):
                            self._take(json.loads(line[6:]))

    def _take(self, event: dict[str, Any]) -> None:
        if event["id"] > self._last:
            self._last = event["id"]
            self.seen.append(Seen(event["time"], self._host, *(
                event[name] for name in ("kind", "subject", "before", "after", "reason"))))


class Box(MailServer):
    """Keeps the time of each mail, too."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Mail] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        answer = await super().handle_DATA(server, session, envelope)
        message = self.accepted[-1][1]
        subject = " ".join(str(message["Subject"]).split())
        self.seen.append(Mail(time.time(), subject, f"{subject}\n{message.get_content()}"))
        return answer


class Mails(Watcher):
    """The mail server on the host "mail"."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self._site, self._box = site, Box()

    @property
    def seen(self) -> list[Mail]:
        """What has arrived so far."""
        return list(self._box.seen)

    def run(self) -> None:
        with self._site.network["mail"].entered():
            asyncio.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        async with await loop.create_server(lambda: SMTP(self._box, loop=loop), "0.0.0.0", MAIL_PORT):
            await loop.run_in_executor(None, self.over.wait)


class Flow(Watcher):
    """How many queries each director sends to each server, by the counters in its status."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self._site = site
        self.samples: list[Sample] = []
        self._before: dict[str, tuple[float, int, dict[str, int]]] = {}

    def run(self) -> None:
        while not self.over.wait(SAMPLE):
            qps: dict[tuple[str, str], float] = {}
            for director in DIRECTORS:
                qps |= self._look(director)
            self.samples.append(Sample(time.time(), qps))

    def _look(self, director: str) -> dict[tuple[str, str], float]:
        status = self._site.status(director)
        if not status.get("services"):
            return {}
        pid, now = status["pid"], time.monotonic()
        counts = {server["name"]: server["queries"] for server in status["services"][0]["servers"]}
        was = self._before.get(director)
        self._before[director] = (now, pid, counts)
        if was is None or was[1] != pid:            # another ns7 counts from nothing
            return {}
        return {(director, name): max(0, count - was[2].get(name, count)) / (now - was[0])
                for name, count in counts.items()}


class Asking(Watcher):
    """The one-shot client on the host "client": every query once, as long as the drill lasts."""

    def __init__(self, site: Site, rate: float = RATE) -> None:
        super().__init__()
        self._site = site
        questions = [query((f"h{number}.{zone}", "A"), 0) for number in range(NAMES) for zone in ZONES]
        self._plan = Plan((VIP, 53), rate, LONGEST, questions, 16, PATIENCE)
        self._record = Record()
        self._offset = time.time_ns() - time.monotonic_ns()
        self.result: Result | None = None

    def run(self) -> None:
        with self._site.network["client"].entered():
            self.result = run(self._plan, record=self._record, over=self.over.is_set)

    def lost(self, since: float, until: float) -> list[float]:
        """When those queries were sent, within these times, that were not answered in time."""
        begin, end = (int(moment * 1e9) - self._offset for moment in (since, until))
        return [(sent + self._offset) / 1e9 for sent in self._record.lost(begin, end, int(PATIENCE * 1e9))]

    def sent(self, since: float, until: float) -> int:
        """Queries sent within these times."""
        return self._record.count(*(int(moment * 1e9) - self._offset for moment in (since, until)))


class FirstAnswer:
    """The first answer of the virtual address that a host sends from now on, by the kernel's time of its arrival."""

    def __init__(self, site: Site, host: str) -> None:
        code = answers_of(site.mac(host))
        kept = ctypes.create_string_buffer(code)
        program = struct.pack("HP", len(code) // INSTRUCTION.size, ctypes.addressof(kept))
        # Protocol 0: it hears nothing before the filter is there.
        self._socket = site.network["client"].socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        stamp(self._socket)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)     # the first one is enough
        self._socket.setblocking(False)
        self._socket.bind((DEVICE, ETH_P_IP))
        self._at: float | None = None

    @property
    def at(self) -> float | None:
        """When it came; None so far."""
        if self._at is None:
            with contextlib.suppress(BlockingIOError):
                _, ancillary, _, _ = self._socket.recvmsg(64, ANCILLARY)
                self._at = arrived(ancillary)
        return self._at

    def close(self) -> None:
        self._socket.close()


def answers_of(mac: bytes) -> bytes:
    """A filter (classic BPF) for Ethernet frames from this address that bear UDP from port 53 of the virtual one."""
    words = [(6, 4, mac[:4]), (10, 2, mac[4:]), (23, 1, bytes([socket.IPPROTO_UDP])), (26, 4, socket.inet_aton(VIP)),
             (34, 2, (53).to_bytes(2, "big"))]
    code = []
    for number, (offset, size, value) in enumerate(words):
        last = 2 * (len(words) - number) - 1        # instructions from here to "drop"
        code.append((LOAD[size], 0, 0, offset))
        code.append((JUMP_EQUAL, 0, last, int.from_bytes(value, "big")))
    return b"".join(INSTRUCTION.pack(*each) for each in [*code, (RETURN, 0, 0, 64), (RETURN, 0, 0, 0)])
