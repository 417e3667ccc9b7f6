"""The one-shot client over loopback: it tells what happened to each query, and asks each once."""

from __future__ import annotations

import contextlib
import ctypes
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import pytest

from benchmarks.oneshot import Plan, Result, run, udp
from benchmarks.oneshot.record import Record
from tests.helpers import ports, wire
from tests.helpers.client import load
from tests.helpers.daemon import ROOT
from tests.helpers.nameserver import NameServer, Received, Reply, always, delayed, echo, silent
from tests.helpers.waiting import PATIENCE

COUNT = 200
NAMES = [wire.query(f"n{number}.example") for number in range(50)]


def ask(server: tuple[str, int] | NameServer, count: int = COUNT, rate: float = 1000, **kwargs: object) -> Result:
    address = (server.host, server.port) if isinstance(server, NameServer) else server
    """Ends as soon as all is answered; where something is not, the test says how long to wait."""
    options: dict[str, object] = {"sockets": 8, "patience": PATIENCE, **kwargs}
    return run(Plan(address, rate, count / rate, NAMES, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_each_query_is_asked_once_and_can_be_told_apart(host: str) -> None:
    with NameServer(host=host) as server:
        result = ask(server)
    assert (result.sent, result.answered, result.lost) == (COUNT, COUNT, [])
    assert (result.twice, result.wrong, result.refused) == (0, 0, 0)
    assert result.rcodes == {"NOERROR": COUNT}
    asked = {(received.source, wire.ident(received.data)) for received in server.received}
    assert len(asked) == len(server.received) == COUNT
    assert len({received.port for received in server.received}) == 8
    assert {wire.qname(message) for message in server.messages} == {f"n{number}.example" for number in range(50)}


def test_it_keeps_its_pace() -> None:
    with NameServer() as server:
        result = ask(server, rate=200)
    assert server.received[-1].at - server.received[0].at > 0.9 * COUNT / 200
    assert result.rate == pytest.approx(200, rel=0.5) or result.doubt


def test_lost() -> None:
    """Every tenth query is swallowed, the result names when it was sent."""
    with NameServer(lambda received: echo(received) if wire.qname(received.data)[1] != "7" else []) as server:
        result = ask(server, patience=2.0)
    numbers = [number for number in range(COUNT) if str(number % 50).startswith("7")]
    assert len(result.lost) == len(numbers) == COUNT - result.answered
    for second, number in zip(result.lost, numbers, strict=True):
        assert number / 1000 - 0.002 <= second < number / 1000 + 5


def test_nobody_answers() -> None:
    with NameServer(silent) as server:
        result = ask(server, patience=0.2)
    assert (result.sent, result.answered, len(result.lost), result.late) == (COUNT, 0, COUNT, 0)


def test_too_late_is_lost() -> None:
    with NameServer(delayed(0.3)) as server:
        result = ask(server, rate=400, patience=0.1)
    assert result.answered == 0
    assert len(result.lost) == COUNT
    assert result.late > 0


def test_latency_is_the_servers() -> None:
    with NameServer(delayed(0.1)) as server:
        result = ask(server)
    assert result.answered == COUNT
    assert all(slow.taken >= 0.1 for slow in result.slowest)
    assert result.p50 is not None
    assert 0.1 <= result.p50 <= (result.p99 or 0) <= result.latest < 5


def test_answered_twice() -> None:
    with NameServer(lambda received: [*echo(received), *echo(received)]) as server:
        result = ask(server)
    assert (result.answered, result.lost) == (COUNT, [])
    assert 0 < result.twice <= COUNT  # the last ones may come after the end


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: wire.with_id(wire.answer(data), wire.ident(data) ^ 0x5555),
        lambda data: data,  # not an answer
        lambda data: wire.answer(wire.with_id(wire.query("other.example"), wire.ident(data))),
        lambda data: wire.answer(data)[:11],
    ],
)
def test_a_wrong_answer_is_none(spoil: Callable[[bytes], bytes]) -> None:
    with NameServer(always(spoil)) as server:
        result = ask(server, patience=2.0)
    assert (result.answered, result.wrong, len(result.lost)) == (0, COUNT, COUNT)


def test_from_another_address_is_none() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.9", 0))

        def elsewhere(received: Received) -> Iterable[Reply]:
            return [Reply(wire.answer(received.data), sock=other)]

        with NameServer(elsewhere) as server:
            result = ask(server, patience=0.2)
    assert (result.answered, result.wrong) == (0, 0)


def test_rcodes() -> None:
    def handle(received: Received) -> Iterable[bytes]:
        if wire.qname(received.data) == "n0.example":
            return [wire.header_only(received.data, "FORMERR")]
        return [wire.answer(received.data, code="SERVFAIL")]

    with NameServer(handle) as server:
        result = ask(server)
    assert result.rcodes == {"FORMERR": COUNT // 50, "SERVFAIL": COUNT - COUNT // 50}


def test_refused() -> None:
    """All that was due is sent, though each refusal of one costs the send of another."""
    result = ask(("127.0.0.1", ports.free_port()), patience=0.1)
    assert (result.sent, result.answered, len(result.lost)) == (COUNT, 0, COUNT)
    assert result.refused > 0


def test_its_own_overflow_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "BUFFER", 1)
    with NameServer(lambda received: list(echo(received)) * 500) as server:
        result = ask(server, count=2)
    assert any("own sockets dropped" in doubt for doubt in result.doubt)


def test_its_own_stall_is_told() -> None:
    """A call that holds the interpreter stops the client too; the time is not the server's."""
    interpreter_held = ctypes.PyDLL(None)
    with NameServer(delayed(0.1)) as server:
        plan = Plan((server.host, server.port), 200, 1, NAMES, patience=PATIENCE)
        result = run(plan, [(0.3, lambda: interpreter_held.usleep(300_000))])
    assert result.answered == result.sent == 200
    assert max(length for _, length in result.stalls) >= 0.3
    assert any(slow.stalled for slow in result.slowest)
    assert result.latest_unstalled < result.latest


def test_schedule() -> None:
    done: list[tuple[int, float]] = []
    with NameServer() as server:
        calls = [(second, lambda second=second: done.append((second, time.monotonic()))) for second in (0.1, 0.3, 0.7)]
        result = load(server.address, 100, 0.5, calls)
    assert [second for second, _ in done] == [0.1, 0.3, 0.7]
    for second, at in done:
        assert at - result.start >= second
    assert result.sent == 50


def test_what_a_call_raises_is_raised() -> None:
    with NameServer() as server, pytest.raises(ZeroDivisionError):
        load(server.address, 100, 0.2, [(0.1, lambda: 1 / 0)])


def test_start_at_a_given_time() -> None:
    with NameServer() as server:
        start = time.monotonic() + 0.3
        result = ask(server, count=10, start=start)
        assert server.received[0].at >= start
    assert result.start == pytest.approx(start)


class Stream:
    """A TCP name server; `behave(connection, messages)` is run for each connection by a thread."""

    def __init__(self, behave: Callable[[socket.socket, Iterator[bytes]], None]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.address: tuple[str, int] = self.listener.getsockname()[:2]
        self.connections = 0
        self.behave = behave
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock = self.listener.accept()[0]
                self.connections += 1
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, sock.makefile("rb") as file, contextlib.suppress(OSError):

            def messages() -> Iterator[bytes]:
                while head := file.read(2):
                    yield file.read(int.from_bytes(head, "big"))

            self.behave(sock, messages())

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        # A thread in accept() keeps the socket listening until it is woken.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


def answer_all(sock: socket.socket, messages: Iterator[bytes]) -> None:
    for message in messages:
        sock.sendall(framed(wire.answer(message)))


def test_tcp_one_query_per_connection() -> None:
    with Stream(answer_all) as server:
        result = ask(server.address, tcp=True)
    assert (result.sent, result.answered, result.lost) == (COUNT, COUNT, [])
    assert (result.refused, result.reset, result.closed, result.wrong) == (0, 0, 0, 0)
    assert server.connections == COUNT


def test_tcp_pipelined_and_answered_in_any_order() -> None:
    def backwards(sock: socket.socket, messages: Iterator[bytes]) -> None:
        for first in messages:
            second = next(messages)
            data = framed(wire.answer(second)) + framed(wire.answer(first))
            sock.sendall(data[:7])
            sock.sendall(data[7:])

    with Stream(backwards) as server:
        result = ask(server.address, tcp=True, connections=4)
    assert (result.sent, result.answered, result.lost, result.wrong) == (COUNT, COUNT, [], 0)
    assert server.connections == 4


def test_tcp_refused() -> None:
    result = ask(("127.0.0.1", ports.free_port()), tcp=True)
    assert (result.sent, result.refused, len(result.lost)) == (COUNT, COUNT, COUNT)


def reset(sock: socket.socket, messages: Iterator[bytes]) -> None:
    next(messages)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(("behave", "field"), [(reset, "reset"), (lambda _, messages: next(messages), "closed")])
def test_tcp_ended_by_the_server(behave: Callable[[socket.socket, Iterator[bytes]], None], field: str) -> None:
    with Stream(behave) as server:
        result = ask(server.address, tcp=True)
    assert (result.sent, len(result.lost)) == (COUNT, COUNT)
    assert getattr(result, field) == COUNT
    assert result.refused + result.reset + result.closed == COUNT


def test_tcp_persistent_connections_are_opened_again() -> None:
    def one_answer(sock: socket.socket, messages: Iterator[bytes]) -> None:
        sock.sendall(framed(wire.answer(next(messages))))

    with Stream(one_answer) as server:
        result = ask(server.address, count=20, rate=50, tcp=True, connections=2)
    assert result.answered + len(result.lost) == 20
    assert result.answered > 0
    assert server.connections >= result.answered


def test_tcp_nobody_answers() -> None:
    def swallow(_: socket.socket, messages: Iterator[bytes]) -> None:
        for _message in messages:
            pass

    with Stream(swallow) as server:
        result = ask(server.address, count=20, tcp=True, connections=2, patience=0.2)
    assert (result.answered, len(result.lost), result.closed) == (0, 20, 0)


@pytest.mark.parametrize("more", [[], ["--name", "n1.example", "--sockets", "3"]])
def test_command(more: list[str]) -> None:
    with NameServer() as server:
        argv = [sys.executable, "-m", "benchmarks.oneshot", server.address, "--rate", "200", "--seconds", "0.5", *more]
        argv += ["--patience", str(PATIENCE)]
        done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["sent"], result["answered"], result["lost"]) == (100, 100, [])
    assert {wire.qname(message) for message in server.messages} == {"n1.example" if more else "www.example"}


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1", "[::1]", "127.0.0.1:x"])
def test_command_wrong_usage(address: str) -> None:
    argv = [sys.executable, "-m", "benchmarks.oneshot", address]
    assert subprocess.run(argv, capture_output=True, cwd=ROOT, timeout=60, check=False).returncode == 2


def test_it_ends_when_it_is_told_to_and_can_be_read_meanwhile() -> None:
    """What was planned is then what was sent: no doubt, and no query without its answer."""
    record = Record()
    with NameServer() as server:
        plan = Plan((server.host, server.port), 1000, 3600, NAMES, 8, PATIENCE)
        result = run(plan, record=record, over=lambda: record.answered >= COUNT)
    assert COUNT <= result.sent < 3600 * 1000 and result.lost == [] and result.doubt == []
    assert record.lost(0, time.monotonic_ns(), int(PATIENCE * 1e9)) == []
    assert record.count(0, time.monotonic_ns()) == result.sent
