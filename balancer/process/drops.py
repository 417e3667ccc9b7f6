"""What the kernel dropped because nobody took it in time: by listening address. Runs in the supervisor.

The kernel counts on each socket (SO_MEMINFO, the same number that SO_RXQ_OVFL puts beside datagrams, which would cost
each of them). It wraps at 32 bits. The supervisor reads it, since the sockets are its own: what was dropped while a
worker was replaced counts too.
"""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Iterable

SO_MEMINFO, SK_MEMINFO_DROPS, SK_MEMINFO_VARS = 55, 8, 9


class Drops:
    """Counts from when a socket is looked at first. `by_address`: (service number, "ADDRESS:PORT") → datagrams.

    `before` is what a supervisor before this one has counted, the same way.
    """

    def __init__(self) -> None:
        self.by_address: Counter[tuple[int, str]] = Counter()
        self.before: dict[tuple[int, str], int] = {}
        self._last: dict[socket.socket, int] = {}

    def look(self, listeners: Iterable[tuple[int, socket.socket]]) -> Counter[int]:
        """What was dropped since the last look, by service number; sockets that are not named are forgotten."""
        fresh: Counter[int] = Counter()
        last, self._last = self._last, {}
        for service, one in listeners:
            if one in self._last:               # two crews share it
                continue
            count = self._last[one] = _dropped(one)
            more = (count - last.get(one, count)) & 0xFFFFFFFF
            self.by_address[service, _address(one)] += more
            fresh[service] += more
        return fresh

    def forget(self, service: int) -> None:
        """Its number is another's from now on."""
        for counts in (self.by_address, self.before):
            for key in [key for key in counts if key[0] == service]:
                del counts[key]

    def total(self, service: int, address: str) -> int:
        """All that was dropped there, for as long as ns7 runs."""
        return self.by_address[service, address] + self.before.get((service, address), 0)


def _dropped(one: socket.socket) -> int:
    facts = one.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * SK_MEMINFO_VARS)
    return int(struct.unpack_from("=I", facts, 4 * SK_MEMINFO_DROPS)[0])


def _address(one: socket.socket) -> str:
    host, port = one.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
