"""The delay line between namespaces: time, order, errors and sizes as on a long wire."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import statistics
import threading
import time
from collections.abc import Iterator

import pytest

from tests.helpers import wire
from tests.helpers.client import SO_RCVBUFFORCE, Client
from tests.helpers.nameserver import NameServer
from tests.helpers.netns import require_netns
from tests.helpers.network import Host, Network
from tests.helpers.ports import address
from tests.helpers.waiting import PATIENCE

pytestmark = pytest.mark.net

IP_RECVERR, IPV6_RECVERR = 11, 25
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DONT, PMTUDISC_DO = 10, 23, 0, 2
ORIGIN_ICMP, ORIGIN_ICMP6 = 2, 3
PORT = 5300
FAMILIES = [socket.AF_INET, socket.AF_INET6]


@pytest.fixture
def network() -> Iterator[Network]:
    require_netns()
    with Network({"near": 1, "far": 2}, delayed=["far"]) as network:
        yield network


def host_address(host: Host, family: socket.AddressFamily) -> str:
    return host.address6 if family == socket.AF_INET6 else host.address4


def toward(network: Network, family: socket.AddressFamily, kind: int, port: int = PORT) -> socket.socket:
    """A socket of "near", connected to "far"."""
    sock = network["near"].socket(family, kind)
    sock.settimeout(PATIENCE)
    sock.connect((host_address(network["far"], family), port))
    return sock


@contextlib.contextmanager
def echoing(network: Network, family: socket.AddressFamily = socket.AF_INET) -> Iterator[NameServer]:
    with network["far"].entered():
        server = NameServer(host=host_address(network["far"], family), port=PORT)
    with server:
        yield server


def round_trips(network: Network, count: int = 20) -> list[float]:
    asked = address(network["far"].address4, PORT)
    with network["near"].entered(), Client(asked) as client:
        client.ask(wire.query())  # ARP
        times = []
        for _ in range(count):
            start = time.monotonic()
            client.ask(wire.query())
            times.append(time.monotonic() - start)
    return times


@pytest.mark.parametrize("delay", [0.0001, 0.005, 0.02])
def test_time(network: Network, delay: float) -> None:
    """Never shorter than twice the delay; not much longer, as far as the cores allow that to be said."""
    network.delay("far", delay)
    with echoing(network):
        times = round_trips(network)
    assert min(times) >= 2 * delay
    assert statistics.median(times) < 2 * delay + 0.25


def test_time_changes_while_running(network: Network) -> None:
    with echoing(network):
        for delay in (0.0, 0.4, 0.001):
            network.delay("far", delay)
            assert min(round_trips(network, 2)) >= 2 * delay
    # Short again: 40 round trips at the long delay would take 32 s.
    with echoing(network):
        start = time.monotonic()
        round_trips(network, 40)
        assert time.monotonic() - start < 20


def test_loss(network: Network) -> None:
    with echoing(network), network["near"].entered(), Client(address(network["far"].address4, PORT)) as client:
        client.ask(wire.query())
        network.delay("far", 0.001, 1)
        client.send(wire.query())
        client.nothing_comes()
        network.delay("far", 0.001)
        client.ask(wire.query())


@pytest.mark.parametrize("family", FAMILIES)
def test_five_thousand_datagrams_a_second_in_order(network: Network, family: socket.AddressFamily) -> None:
    """None is lost, also when the line has to catch up."""
    network.delay("far", 0.01)
    count, each = 5000, 5
    receiver = network["far"].socket(family, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
    receiver.bind((host_address(network["far"], family), PORT))
    receiver.settimeout(PATIENCE)
    with receiver, toward(network, family, socket.SOCK_DGRAM) as sender:
        sender.send(b"first")  # resolves the neighbour's address
        assert receiver.recv(100) == b"first"
        start = time.monotonic()
        for number in range(0, count, each):
            time.sleep(max(0.0, start + number / 5000 - time.monotonic()))
            for one in range(number, number + each):
                sender.send(one.to_bytes(4, "big"))
        got = [int.from_bytes(receiver.recv(100), "big") for _ in range(count)]
    assert got == list(range(count))
    assert network.line("far").refused == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_refusal_comes_back_with_its_quote(network: Network, family: socket.AddressFamily) -> None:
    """An ICMP port-unreachable, one round trip later, quotes the very bytes that were sent."""
    six = family == socket.AF_INET6
    level, option = (socket.IPPROTO_IPV6, IPV6_RECVERR) if six else (socket.IPPROTO_IP, IP_RECVERR)
    network.delay("far", 0.05)
    with toward(network, family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(level, option, 1)
        sent, start = os.urandom(60), time.monotonic()
        sock.send(sent)
        poll = select.poll()
        poll.register(sock, 0)
        assert poll.poll(PATIENCE * 1000), "no error came"
        assert time.monotonic() - start >= 0.1
        quoted, ((at, kind, data),), _, whom = sock.recvmsg(200, 200, socket.MSG_ERRQUEUE)
    assert quoted == sent
    assert whom[:2] == (host_address(network["far"], family), PORT)
    assert (at, kind) == (level, option)
    # struct sock_extended_err: errno, origin, type, code
    assert int.from_bytes(data[:4], "little") == errno.ECONNREFUSED
    assert tuple(data[4:7]) == ((ORIGIN_ICMP6, 1, 4) if six else (ORIGIN_ICMP, 3, 3))


@pytest.mark.parametrize("family", FAMILIES)
def test_tcp(network: Network, family: socket.AddressFamily) -> None:
    """A megabyte each way, whole."""
    network.delay("far", 0.002)
    payload = os.urandom(1 << 20)
    listener = network["far"].socket(family, socket.SOCK_STREAM)
    listener.bind((host_address(network["far"], family), PORT))
    listener.listen()

    def echo() -> None:
        with listener, listener.accept()[0] as sock:
            sock.sendall(_exactly(sock, len(payload)))

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    with toward(network, family, socket.SOCK_STREAM) as sock:
        sock.sendall(payload)
        assert _exactly(sock, len(payload)) == payload
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_tcp_refusal(network: Network) -> None:
    with pytest.raises(ConnectionRefusedError):
        toward(network, socket.AF_INET, socket.SOCK_STREAM)


@pytest.mark.parametrize(("family", "headers"), [(socket.AF_INET, 28), (socket.AF_INET6, 48)])
def test_sizes(network: Network, family: socket.AddressFamily, headers: int) -> None:
    """1,500 bytes fit and no more may be sent unfragmented; larger datagrams arrive whole, in fragments."""
    six = family == socket.AF_INET6
    level, option = (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER) if six else (socket.IPPROTO_IP, IP_MTU_DISCOVER)
    network.delay("far", 0.001)
    with echoing(network, family), toward(network, family, socket.SOCK_DGRAM) as sock:

        def comes_back(size: int) -> bool:
            data = os.urandom(size)
            sock.send(data)
            answer = sock.recv(65535)
            return len(answer) == size and answer[4:] == data[4:]

        sock.setsockopt(level, option, PMTUDISC_DO)
        assert comes_back(1500 - headers)
        with pytest.raises(OSError, match="too long"):
            sock.send(os.urandom(1501 - headers))
        sock.setsockopt(level, option, PMTUDISC_DONT)
        for size in (1501 - headers, 4096, 60000):
            assert comes_back(size)


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (piece := sock.recv(1 << 16)):
        data += piece
    return data
