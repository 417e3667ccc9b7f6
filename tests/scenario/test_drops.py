"""What is dropped, each by its reason: nonsense, loops, the not admitted, what there is no room for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.conftest import OpenClient, StartBalancer, StartServer
from tests.helpers import ports, wire
from tests.helpers.client import Client, ask
from tests.helpers.config import Server
from tests.helpers.nameserver import NameServer, silent
from tests.helpers.ports import free_address
from tests.helpers.spoof import Spoofer
from tests.helpers.waiting import wait_for
from tests.scenario.test_admin import fetch


@pytest.mark.parametrize("data", [b"", b"x", wire.query()[:11]], ids=["0 bytes", "1 byte", "11 bytes"])
def test_shorter_than_a_header(
    start: StartBalancer, nameserver: StartServer, client: OpenClient, data: bytes
) -> None:
    server = nameserver()
    balancer = start([server.address])
    one = client(balancer.address)
    one.send(data)
    one.nothing_comes()
    one.ask(wire.query())
    balancer.wait_dropped({"short": 1})
    assert len(server.received) == 1


def test_response_from_a_client(start: StartBalancer, nameserver: StartServer, client: OpenClient) -> None:
    """Never answered, whatever else it says: two that answer each other's answers never stop."""
    server = nameserver()
    balancer = start([server.address])
    one = client(balancer.address)
    for data in (wire.query(flags=wire.QR), wire.query("x.example", "AXFR", flags=wire.QR), b"\xff" * 12):
        one.send(data)
    one.nothing_comes()
    one.ask(wire.query())
    balancer.wait_dropped({"response": 3})
    assert len(server.received) == 1


def test_source_not_admitted(start: StartBalancer, nameserver: StartServer, client: OpenClient) -> None:
    server = nameserver()
    balancer = start([server.address], admit={"query": ["127.0.0.2/32", "2001:db8::/32"]})
    stranger = client(balancer.address, "127.0.0.3")
    for kind in ("A", "SOA"):
        stranger.send(wire.query(qtype=kind))
    stranger.nothing_comes()
    ask(balancer.address, source="127.0.0.2")
    balancer.wait_dropped({"not_admitted": 2})
    assert len(server.received) == 1


GUARDED = {
    "AXFR": wire.query("zone.example", "AXFR"),
    "IXFR": wire.query("zone.example", "IXFR"),
    "axfr in mixed case": wire.query("ZoNe.example", "AXFR"),
    "UPDATE": wire.query("zone.example", "SOA", opcode="UPDATE"),
    "NOTIFY": wire.query("zone.example", "SOA", opcode="NOTIFY"),
    "NOTIFY without a question": wire.header(5, 4 << 11, (0, 0, 0, 0)),
}


@pytest.mark.parametrize("data", GUARDED.values(), ids=GUARDED.keys())
def test_not_admitted_is_refused(
    start: StartBalancer, nameserver: StartServer, client: OpenClient, data: bytes
) -> None:
    """By default nobody may transfer, update or notify: the server would take everybody for ns7."""
    server = nameserver()
    balancer = start([server.address])
    answer = client(balancer.address).ask(data)
    assert wire.flags(answer) & wire.QR
    assert wire.rcode(answer) == wire.RCODES["REFUSED"]
    assert wire.flags(answer) & 0x7800 == wire.flags(data) & 0x7800, "the opcode is the client's"
    assert len(answer) <= len(data), "never more than was sent: the source may be forged"
    balancer.wait_dropped({"not_admitted": 1})
    assert server.received == []


def test_admitted_prefix_is_forwarded(start: StartBalancer, nameserver: StartServer) -> None:
    server = nameserver()
    lists = {"transfer": ["127.0.0.2/32"], "update": ["127.0.0.0/30"], "notify": ["127.0.0.3/32", "::/0"]}
    balancer = start([server.address], admit=lists)
    seen = {
        (kind, host): wire.rcode(ask(balancer.address, GUARDED[kind], f"127.0.0.{host}"))
        for kind in ("AXFR", "IXFR", "UPDATE", "NOTIFY")
        for host in (2, 3, 4)
    }
    admitted = {("AXFR", 2), ("IXFR", 2), ("UPDATE", 2), ("UPDATE", 3), ("NOTIFY", 3)}
    refused = wire.RCODES["REFUSED"]
    assert {one for one, code in seen.items() if code != refused} == admitted
    assert [data[2:] for data in server.messages] == [
        GUARDED[kind][2:] for kind, host in seen if (kind, host) in admitted
    ]
    balancer.wait_dropped({"not_admitted": len(seen) - len(admitted)})


def test_weight_zero_everywhere(start: StartBalancer, nameserver: StartServer, client: OpenClient) -> None:
    server = nameserver()
    balancer = start([Server(server.address, weight=0)])
    one = client(balancer.address)
    one.send(wire.query())
    balancer.wait_dropped({"no_server": 1})
    assert balancer.server()["state"] == "drained"
    one.nothing_comes(0.05)
    assert server.received == []


def test_full_table_sheds_new_queries(
    start: StartBalancer, nameserver: StartServer, client: OpenClient
) -> None:
    """And never those it took: their answers, late but in time, all come."""
    server = nameserver(silent)
    balancer = start([server.address], inflight_max=64, udp_timeout="20s")
    one = client(balancer.address)
    asked = [wire.query(f"n{number}.example", ident=number) for number in range(100)]
    for data in asked:
        one.send(data)
    balancer.wait_dropped({"table_full": 36})
    assert balancer.service()["inflight"] == 64
    server.answer_all(server.wait(64))
    answers = {wire.ident(answer): answer for answer in (one.receive() for _ in range(64))}
    assert answers == {wire.ident(data): wire.answer(data, wire.address_record()) for data in asked[:64]}
    one.send(asked[99])
    server.answer_all(server.wait(65)[64:])
    assert one.receive() == wire.answer(asked[99], wire.address_record())


def test_full_table_empties_by_time(
    start: StartBalancer, nameserver: StartServer, client: OpenClient
) -> None:
    server = nameserver(silent)
    balancer = start([server.address], inflight_max=64, udp_timeout="0.3s")
    one = client(balancer.address)

    def fill() -> None:
        for number in range(64):
            one.send(wire.query(ident=number))

    fill()
    wait_for("all timed out", lambda: balancer.service()["timeouts"] == 64)
    fill()
    wait_for("all timed out again", lambda: balancer.service()["timeouts"] == 128)
    assert balancer.dropped() == {}
    assert balancer.server()["timeouts"] == 128


FORGED4 = {
    "port 0": ("127.0.0.9", 0),
    "multicast": ("224.0.0.251", 5353),
    "broadcast": ("255.255.255.255", 4000),
    "own address": ("own", -1),
}
FORGED6 = {"port 0": ("::1", 0), "own address": ("own", -1)}


@pytest.fixture
def spoofers() -> Iterator[list[Spoofer]]:
    made: list[Spoofer] = []
    yield made
    for spoofer in made:
        spoofer.close()


@pytest.mark.parametrize(
    ("host", "source", "port"),
    [
        *(pytest.param("127.0.0.1", *forged, id=f"IPv4 {what}") for what, forged in FORGED4.items()),
        *(pytest.param("::1", *forged, id=f"IPv6 {what}") for what, forged in FORGED6.items()),
    ],
)
def test_impossible_source_inside_a_batch(
    start: StartBalancer,
    nameserver: StartServer,
    client: OpenClient,
    spoofers: list[Spoofer],
    host: str,
    source: str,
    port: int,
) -> None:
    """A full batch of 64 with three in it: they are counted, and cost nobody else an answer."""
    server = nameserver()
    balancer = start([server.address], [ports.free_address(host)])
    spoofers.append(Spoofer(balancer.address))
    if source == "own":
        source, port = ports.split(balancer.address)
    one = client(balancer.address)
    with balancer.frozen():
        for number in range(61):
            one.send(wire.query(ident=number))
            if number in (0, 30, 60):
                spoofers[0].send(wire.query("forged.example"), source, port)
    assert sorted(wire.ident(one.receive()) for _ in range(61)) == list(range(61))
    balancer.wait_dropped({"source": 3})
    assert "forged.example" not in {wire.qname(data) for data in server.messages}


def test_own_address_on_a_wildcard_listener(
    start: StartBalancer, nameserver: StartServer, spoofers: list[Spoofer]
) -> None:
    """The address that was asked is ours, whatever the listener is bound to."""
    server = nameserver()
    port = ports.free_port("0.0.0.0")
    balancer = start([server.address], [f"0.0.0.0:{port}"])
    asked = f"127.0.0.2:{port}"
    spoofers.append(Spoofer(asked))
    spoofers[0].send(wire.query("forged.example"), "127.0.0.2", port)
    ask(asked)
    balancer.wait_dropped({"source": 1})
    assert len(server.received) == 1


def test_answer_too_long_for_the_clients_protocol(start: StartBalancer) -> None:
    """65,520 bytes fit into IPv6 but not into IPv4 (65,507): EMSGSIZE, and the others are answered."""
    with NameServer(silent, "::1") as server:
        balancer = start([server.address])
        with Client(balancer.address) as one:
            for number in range(9):
                one.send(wire.query(f"n{number}.example", ident=number))
            received = server.wait(9)
            with balancer.frozen():
                server.answer_all(received[:4])
                server.answer_all(received[4:5], lambda data: wire.sized_answer(data, 65520))
                server.answer_all(received[5:])
            assert sorted(wire.ident(one.receive()) for _ in range(8)) == [0, 1, 2, 3, 5, 6, 7, 8]
            one.nothing_comes(0.05)
        balancer.wait_dropped({"client_too_long": 1})


def test_query_too_long_for_the_servers_protocol(start: StartBalancer, nameserver: StartServer) -> None:
    """The same the other way: first, amid and last in a batch, and all others are answered."""
    server = nameserver()
    balancer = start([server.address], [ports.free_address("::1")])
    with Client(balancer.address) as one:
        with balancer.frozen():
            for number in range(21):
                query = wire.query(ident=number)
                one.send(query.ljust(65520, b"\0") if number in (0, 10, 20) else query)
        expected = [number for number in range(21) if number not in (0, 10, 20)]
        assert sorted(wire.ident(one.receive()) for _ in expected) == expected
        one.nothing_comes(0.05)
    service = balancer.wait_idle()
    assert service["timeouts"] + service["dropped"]["unsent"] == 3


def test_more_updates_of_one_id_than_sockets(
    start: StartBalancer, nameserver: StartServer, client: OpenClient
) -> None:
    """An UPDATE keeps its id, so two sockets hold two of them; the third is shed, never put over another."""
    server = nameserver(silent)
    settings = {"udp_timeout": "20s", "admit": {"update": ["127.0.0.0/8"]}}
    balancer = start([Server(server.address, sockets=2)], **settings)
    clients = [client(balancer.address) for _ in range(5)]
    for number, one in enumerate(clients):
        one.send(wire.query(f"zone{number}.example", "SOA", opcode="UPDATE", ident=7))
    wait_for("all read", lambda: balancer.service()["queries"] == 5)
    forwarded = balancer.service()["inflight"]
    assert 1 <= forwarded <= 2
    balancer.wait_dropped({"table_full": 5 - forwarded})
    received = server.wait(forwarded)
    server.answer_all(received)
    for data in server.messages:
        name = wire.qname(data)
        answer = clients[int(name[4])].receive()
        assert wire.qname(answer) == name


def test_what_the_kernel_drops_is_counted(start: StartBalancer, nameserver: StartServer, client: OpenClient) -> None:
    """At a full listening buffer, by address, also while nobody reads; never twice, and it stays over other workers."""
    http, other = free_address(), free_address()
    balancer = start([nameserver().address], listen=[free_address(), other], http=[http], udp_buffer="64KiB")
    one = client(balancer.address)
    with balancer.frozen():
        for number in range(3000):
            one.send(wire.query(ident=number))

    def accounted() -> bool:
        service = balancer.service()
        return bool(service["socket_drops"]) and service["socket_drops"] + service["queries"] == 3000

    wait_for("every datagram is a query or a drop", accounted)
    drops = balancer.service()["socket_drops"]
    assert balancer.status()["socket_drops"]["dns"][balancer.address] == drops
    balancer.reload(workers=2)
    wait_for("no crew retires", lambda: balancer.status()["retiring"] == 0)
    assert balancer.status()["socket_drops"]["dns"] == {balancer.address: drops, other: 0}
    assert balancer.service()["socket_drops"] == drops
    series = f'ns7_socket_drops_total{{listen="{balancer.address}",service="dns"}} {drops}.0'

    def told() -> bool:
        with contextlib.suppress(OSError):      # not listening yet
            return series in fetch(http, "/metrics")[1].decode()
        return False

    wait_for("in the metrics", told)
