"""Whatever clients, servers and forged ICMP errors send, a client hears only answers to its own questions, at most one
each, a server sees queries unchanged but for the id, every query is accounted for and the poller falls quiet."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from balancer.datapath.poller import DataPath
from balancer.process.messages import Admit, Attach, Go, Listen, Message, Reach
from balancer.process.state import State
from tests.fuzz.reading import Choices
from tests.fuzz.targets.wire import question
from tests.helpers import ports, wire
from tests.unit.balancer.config.files import load_text

TIMEOUT = 0.2
MOST_STEPS = 48
QUIET_ROUNDS = 64
RCODES = (0, 0, 0, 2, 5, 3)             # SERVFAIL and REFUSED may be asked of another server

_ASK = wire.query("a.example", ident=1)


def _send(data: bytes, client: int = 0) -> bytes:
    return b"\0" + bytes([client]) + len(data).to_bytes(2, "big") + data


SEEDS = (
    _send(_ASK) + b"\1\0" + _send(_ASK, 1) + _send(_ASK, 2) + b"\1\1\1\0",
    _send(_ASK) + b"\2\0\0\0\3xyz" + b"\2\1\0\5\1\xff" + b"\1\0",
    _send(_ASK) + b"\3\0\0\x0c" + bytes(12) + _send(b"") + _send(b"\0" * 11) + _send(_ASK[:2] + b"\x80" + _ASK[3:]),
    b"\4\0" + _send(_ASK) + _send(_ASK, 1) + b"\4\1" + _send(wire.query("b.example", "AXFR")) + b"\1\0",
    _send(_ASK) + b"\5\0\0\0\x1b" + _ASK + b"\5\1\1\0\0" + b"\5\1\1\0\4abcd" + b"\1\0",
    _send(_ASK) + b"\6\0\0" + _send(_ASK) + b"\6\1\0" + _send(_ASK) + b"\6\0\1\1\0\1\1",
    _send(_ASK * 40) + _send(wire.header(1, 0x2800) + wire.question("u.example", "SOA")) + b"\1\0\1\0\1\1",
    _send(_ASK) + b"\7" + _send(_ASK) + b"\1\0",
    _send(_ASK) + b"\x19\0\x21\1" + _send(_ASK, 1) + b"\x19\1\xff\1\0" + _send(_ASK) * 9 + b"\xff" + _send(_ASK),
)


class Server:
    """A name server that does as it is told. `heard` are (query, who asked) not yet answered truly."""

    def __init__(self) -> None:
        self.port = ports.free_port()
        self.heard: list[tuple[bytes, tuple[str, int]]] = []
        self.open()

    def open(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(("127.0.0.1", self.port))

    def listen(self) -> list[bytes]:
        """What has come."""
        came = []
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    self.heard.append(self.socket.recvfrom(65535))
                except ConnectionError:             # a refused answer of before
                    continue
                came.append(self.heard[-1][0])
        return came

    def say(self, data: bytes, to: tuple[str, int]) -> None:
        with contextlib.suppress(OSError):          # too long, or refused before
            self.socket.sendto(data, to)


class Client:
    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.connect(address)
        self.asked: list[bytes] = []
        self.answered: Counter[bytes] = Counter()   # by id

    def ask(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self.socket.send(data)
            self.asked.append(data)

    def listen(self) -> None:
        """Every answer must be to a question of this client's; of one id there are no more than questions."""
        with contextlib.suppress(BlockingIOError):
            while True:
                answer = self.socket.recv(65535)
                assert len(answer) >= 12
                assert answer[2] & 0x80, "a client is sent answers only"
                assert any(_answers(answer, asked) for asked in self.asked), "not what this client asked"
                self.answered[answer[:2]] += 1
                assert self.answered[answer[:2]] <= sum(asked[:2] == answer[:2] for asked in self.asked)


def _answers(answer: bytes, asked: bytes) -> bool:
    if len(asked) < 12 or asked[:2] != answer[:2]:
        return False
    return question(asked) is None or answer[4:6] == b"\0\0" or question(answer) == question(asked)


class Lab:
    """One data path between three clients and two servers, all in this process."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.servers = [Server(), Server()]
        address = ports.free_address()
        self.state = State(load_text(
            f'[[service]]\nname = "fuzz"\nlisten = ["{address}"]\nudp_timeout = "{TIMEOUT * 1000:.0f}ms"\n'
            + "".join(f'[[service.server]]\nname = "s{server.port}"\naddress = "127.0.0.1:{server.port}"\nsockets = 2\n'
                      for server in self.servers)), 1)
        [self.worker] = self.state.crew.workers
        self.state.reach(self.worker)
        self.state.hand_over(self.state.crew, self.worker, self._take)
        self.clients = [Client(ports.split(address)) for _ in range(3)]
        self.seen: set[bytes] = set()
        self.poll = select.poll()
        self.poll.register(self.path.fileno(), select.POLLIN)
        self.raw = stack.enter_context(
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)) if os.geteuid() == 0 else None
        for one in (*self.servers, *self.clients):
            stack.callback(one.socket.close)
        stack.callback(self.path.close)

    def _take(self, message: Message, descriptors: Sequence[int]) -> None:
        match message:
            case Attach():
                config, verdicts, row, slots, *others = descriptors
                self.path = DataPath(config, row, slots, others, verdicts)
            case Admit():
                self.path.admit(*message)
            case Listen(service, "udp"):
                self.path.open_listener(service, descriptors[0])
            case Reach(service, slot):
                self.path.open_server(service, slot, descriptors)
            case Go():
                self.path.adopt()

    def run(self) -> None:
        """Let the path handle what is there, then examine what it has sent."""
        for _ in range(QUIET_ROUNDS):
            self.path.sweep()
            if not self.poll.poll(0):
                break
            self.path.on_readable()
        else:
            raise AssertionError("the poller does not fall quiet")
        for server in self.servers:
            for query in server.listen():
                assert query[2:] in self.seen, "not what a client sent"
        for client in self.clients:
            client.listen()

    def step(self, choices: Choices) -> None:
        """One thing that somebody does."""
        what = choices.number()
        server = self.servers[choices.below(2)] if what % 8 in (1, 2, 3, 4, 6) else self.servers[0]
        match what % 8:
            case 0:
                client, data = self.clients[choices.below(3)], choices.block()
                self.seen.add(data[2:])
                client.ask(data)
            case 1 if server.heard:                 # the true answer to the oldest, sometimes an error
                query, who = server.heard.pop(0)
                server.say(_true(query, RCODES[what // 8 % len(RCODES)]), who)
            case 2 if server.heard:                 # something like it
                query, who = server.heard[0]
                answer = bytearray(_true(query))
                at, junk = choices.below(len(answer) + 1), choices.block()
                answer[at:at + len(junk)] = junk
                server.say(bytes(answer), who)
            case 3 if server.heard:                 # anything
                server.say(choices.block(), server.heard[-1][1])
            case 4 if server.socket.fileno() >= 0:  # it is gone for one step
                server.socket.close()
                self.step(choices)
                self.settle()
                server.open()
            case 5:
                self.forge(choices)
            case 6:
                slot = self.servers.index(server)
                self.state.table.set_weight(0, slot, choices.below(3), time.monotonic_ns())
                self.state.table.publish()
                self.path.refresh()
            case 7:
                time.sleep(TIMEOUT * 1.05 if what == 255 else 0)
        self.settle()

    def settle(self) -> None:
        if all(server.socket.fileno() >= 0 for server in self.servers):
            self.run()
        else:                                       # within case 4: a closed server hears nothing
            for _ in range(QUIET_ROUNDS):
                self.path.sweep()
                self.path.on_readable()

    def forge(self, choices: Choices) -> None:
        """An ICMP "port unreachable" (RFC 792) that quotes any payload, toward one of our sockets."""
        slot, place, payload = choices.below(2), choices.below(2), choices.block()[:512]
        if self.raw is None:
            return
        source = self.worker.servers[0, slot][place].getsockname()[1]
        udp = struct.pack("!HHHH", source, self.servers[slot].port, 8 + len(payload), 0) + payload
        loopback = socket.inet_aton("127.0.0.1")
        quoted = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, loopback, loopback) + udp
        head = struct.pack("!BBHI", 3, 3, 0, 0)
        self.raw.sendto(head[:2] + struct.pack("!H", _checksum(head + quoted)) + head[4:] + quoted, ("127.0.0.1", 0))

    def drain(self) -> None:
        """Answer what is open, or let its time pass; then nothing may be left and the books must balance."""
        deadline = time.monotonic() + 20 * TIMEOUT + 5
        while True:
            for server in self.servers:
                while server.heard:
                    query, who = server.heard.pop(0)
                    server.say(_true(query), who)
            self.run()
            if self.path.in_flight == 0:
                break
            assert time.monotonic() < deadline, "still in flight"
            time.sleep(0.001)
        service = self.worker.row.service(0)
        assert service["inflight"] == 0
        assert service["queries"] == service["answers"] + sum(service["dropped"].values()) + service["timeouts"]
        assert [self.worker.row.server(0, slot)["inflight"] for slot in range(2)] == [0, 0]
        for client in self.clients:
            client.asked.clear()
            client.answered.clear()
        self.seen.clear()


def _true(query: bytes, rcode: int = 0) -> bytes:
    """The query with QR set, as an answer."""
    return query[:2] + bytes([query[2] | 0x80, query[3] & 0xF0 | rcode]) + query[4:]


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@contextlib.contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    with contextlib.ExitStack() as stack:
        lab = Lab(stack)

        def check(data: bytes) -> None:
            choices, steps = Choices(data), 0
            while choices and steps < MOST_STEPS:
                steps += 1
                lab.step(choices)
            lab.drain()

        yield check
