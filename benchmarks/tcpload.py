"""Load over TCP that dnsperf 2.10 cannot make: one query per connection, clients that never reconnect, transfers.

One thread, one selector, plain sockets. A query counts as lost when its connection ends or `PATIENCE` passes before
its answer has come whole and is NOERROR with the id and question asked.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.lab import Address
from benchmarks.load import Question, answers, query

PATIENCE = 10.0
READ_BYTES = 1 << 16


@dataclass
class Tally:
    """What became of a load."""

    answered: int = 0
    lost: int = 0
    seconds: float = 0.0
    why: dict[str, int] = field(default_factory=dict)

    def lose(self, count: int, why: str) -> None:
        if count:
            self.lost += count
            self.why[why] = self.why.get(why, 0) + count


class Caller:
    """One connection: `window` queries outstanding, at most `budget` in all (0: no end)."""

    def __init__(self, address: Address, question: Question, tally: Tally, window: int, budget: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(address)
        self.question, self.tally, self.window, self.budget = question, tally, window, budget
        self.pending: dict[int, bytes] = {}
        self.asked = 0
        self.kept = b""
        self.since = time.monotonic()

    def ask(self, again: bool) -> None:
        """Fill the window; `again`: more may be asked after those that are answered."""
        fresh: list[bytes] = []
        while again and len(self.pending) + len(fresh) < self.window and (not self.budget or self.asked < self.budget):
            fresh.append(query(self.question, self.asked & 0xFFFF))
            self.asked += 1
        for one in fresh:
            self.pending[int.from_bytes(one[:2], "big")] = one
        if fresh:
            self.socket.send(b"".join(struct.pack("!H", len(one)) + one for one in fresh))

    def hear(self) -> bool:
        """Take what has come; False when the connection is at its end."""
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.kept += data
        while len(self.kept) >= 2 and len(self.kept) >= 2 + (length := struct.unpack("!H", self.kept[:2])[0]):
            message, self.kept = self.kept[2 : 2 + length], self.kept[2 + length :]
            asked = self.pending.pop(int.from_bytes(message[:2], "big"), None)
            if asked is None or not answers(asked, message):
                self.tally.lose(1, "wrong answer" if asked is None else f"rcode {message[3] & 15}")
            else:
                self.tally.answered += 1
            self.since = time.monotonic()
        return bool(data)

    def close(self, why: str) -> None:
        self.tally.lose(len(self.pending), why)
        self.pending.clear()
        self.socket.close()


def run(
    address: Address,
    question: Question,
    seconds: float,
    callers: int,
    window: int = 1,
    budget: int = 0,
    schedule: Sequence[tuple[float, Callable[[], Any]]] = (),
) -> Tally:
    """`callers` connections at a time for `seconds`; one whose budget is used up is replaced by a new one.

    `schedule` is (second, call) in order. Queries outstanding at the end are waited for.
    """
    tally, due = Tally(), list(schedule)
    start = time.monotonic()
    with selectors.DefaultSelector() as selector:

        def open_one() -> None:
            caller = Caller(address, question, tally, window, budget)
            selector.register(caller.socket, selectors.EVENT_WRITE, caller)

        def close(caller: Caller, why: str) -> None:
            selector.unregister(caller.socket)
            caller.close(why)

        for _ in range(callers):
            open_one()
        while selector.get_map():
            now = time.monotonic()
            going = now - start < seconds
            while due and now - start >= due[0][0]:
                due.pop(0)[1]()
            events = selector.select(0.05)
            for key, mask in events:
                caller: Caller = key.data
                if mask & selectors.EVENT_WRITE:
                    if error := caller.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                        tally.lose(1, f"connect: errno {error}")
                        close(caller, "")
                        if going:
                            open_one()
                        continue
                    selector.modify(caller.socket, selectors.EVENT_READ, caller)
                    caller.ask(True)
                    continue
                alive = caller.hear()
                if not alive:
                    close(caller, "closed")
                elif caller.pending or (going and (not budget or caller.asked < budget)):
                    caller.ask(going)
                    continue
                else:
                    close(caller, "")
                if going:
                    open_one()
            if not events or not going:
                for key in list(selector.get_map().values()):
                    if now - key.data.since > PATIENCE:
                        close(key.data, "no answer")
                    elif not going and not key.data.pending:
                        close(key.data, "")
    tally.seconds = time.monotonic() - start
    return tally


def transfer(address: Address, zone: str, expected: int) -> int:
    """AXFR of `zone`; the bytes received, once they are `expected` (0: until the second SOA, told by size)."""
    with socket.create_connection(address, PATIENCE) as sock:
        request = query((zone, "AXFR"), 1)
        sock.sendall(struct.pack("!H", len(request)) + request)
        total = 0
        buffer = bytearray(1 << 18)
        sock.settimeout(2.0 if not expected else 60.0)
        with contextlib.suppress(TimeoutError):
            while not expected or total < expected:
                got = sock.recv_into(buffer)
                if not got:
                    break
                total += got
        return total


def transfers(address: Address, zone: str, expected: int, count: int) -> subprocess.Popen[str]:
    """Start `count` transfers at once; see `received`.

    In a process of their own: threads beside a prober would make it wait for the interpreter, 5 ms at a time.
    """
    return subprocess.Popen([sys.executable, "-m", "benchmarks.tcpload", address.host, str(address.port), zone,
                             str(expected), str(count)], stdout=subprocess.PIPE, text=True)


def received(process: subprocess.Popen[str]) -> list[int]:
    """The bytes that each of the `transfers` got."""
    out, _ = process.communicate()
    return [int(word) for word in out.split()]


def _transfer_all(address: Address, zone: str, expected: int, count: int) -> list[int]:
    got = [0] * count

    def one(number: int) -> None:
        with contextlib.suppress(OSError):
            got[number] = transfer(address, zone, expected)

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


@contextlib.contextmanager
def idle_clients(address: Address, question: Question, count: int) -> Any:
    """`count` connections that asked once, were answered, and stay."""
    with contextlib.ExitStack() as stack:
        asked = query(question, 1)
        whole = struct.pack("!H", len(asked)) + asked
        for _ in range(count):
            sock = stack.enter_context(socket.create_connection(address, PATIENCE))
            sock.sendall(whole)
            length = struct.unpack("!H", sock.recv(2))[0]
            while length:
                length -= len(sock.recv(length))
        yield


if __name__ == "__main__":
    host, port, zone, expected, count = sys.argv[1:]
    print(*_transfer_all(Address(host, int(port)), zone, int(expected), int(count)))
