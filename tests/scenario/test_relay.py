"""What goes through unchanged: queries but for their id, answers as the server wrote them (DESIGN §4)."""

from __future__ import annotations

from collections.abc import Iterator

import dns.message
import pytest

from tests.conftest import OpenClient
from tests.helpers import wire
from tests.helpers.client import Client, ask, edns_query
from tests.helpers.daemon import Balancer
from tests.helpers.nameserver import NameServer, always, echo

EVERYBODY = ["0.0.0.0/0", "::/0"]


@pytest.fixture(scope="module")
def server() -> Iterator[NameServer]:
    with NameServer() as server:
        yield server


@pytest.fixture(scope="module")
def running(server: NameServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    """One balancer for the module, everything admitted."""
    admit = dict.fromkeys(("query", "transfer", "update", "notify"), EVERYBODY)
    with Balancer(tmp_path_factory.mktemp("relay"), [server.address], admit=admit) as balancer:
        yield balancer


@pytest.fixture(autouse=True)
def _fresh(server: NameServer) -> None:
    server.handler = echo
    server.received.clear()


QUERIES = {
    "plain": wire.query(),
    "no RD": wire.query(flags=0),
    "CD and AD": wire.query(flags=wire.RD | 0x0030),
    "TC set": wire.query(flags=wire.RD | wire.TC),
    "mixed case": wire.query("wWw.ExAmPlE"),
    "root": wire.query("."),
    "longest name": wire.query(".".join(["x" * 63] * 3 + ["y" * 61])),
    "class CH": wire.query("version.bind", "TXT", qclass=3),
    "no question": wire.header(7, wire.RD, (0, 0, 0, 0)),
    "no question, but more": wire.header(7, wire.RD, (0, 0, 0, 0)) + b"whatever this is",
    "two questions": wire.header(7, wire.RD, (2, 0, 0, 0)) + wire.question() + wire.question("b.example"),
    "opcode 15": wire.header(7, 15 << 11) + wire.question(),
    "opcode 6 (DSO)": wire.header(7, 6 << 11, (0, 0, 0, 0)) + b"\0\x01\0\x02\0\0",
    "opcode STATUS": wire.query(opcode="STATUS"),
    "trailing bytes": wire.query() + b"trailing bytes",
    "question cut off": wire.header(7) + b"\x03www\x07exa",
    "label of reserved type": wire.header(7) + b"\x80www\0\0\x01\0\x01",
    "compression in the question": wire.header(7) + b"\xc0\x0c\0\x01\0\x01",
    "NOTIFY": wire.query(opcode="NOTIFY", qtype="SOA"),
    "AXFR": wire.query(qtype="AXFR"),
    "IXFR": wire.query(qtype="IXFR"),
    "EDNS, empty": edns_query(),
    "EDNS, DO and 4096": edns_query(want_dnssec=True, payload=4096),
    "EDNS, NSID": edns_query(options=[(3, b"")]),
    "EDNS, client subnet": edns_query(options=[(8, bytes.fromhex("00011800c00002"))]),
    "EDNS, cookie": edns_query(options=[(10, bytes(range(8)))]),
    "EDNS, unknown option": edns_query(options=[(65001, b"anything at all")]),
    "EDNS, padding to 512": edns_query(pad=512),
    "over 512 bytes": edns_query(options=[(65001, bytes(1500))]),
    "9000 bytes": edns_query(options=[(65001, bytes(9000))]),
    "largest over loopback": wire.query() + bytes(65507 - len(wire.query())),
}


@pytest.mark.parametrize("data", QUERIES.values(), ids=QUERIES.keys())
def test_query_arrives_unchanged_but_for_the_id(
    running: Balancer, server: NameServer, client: OpenClient, data: bytes
) -> None:
    """… and the answer, here the query with QR set, comes back with the id of the client."""
    answer = client(running.address).ask(data)
    assert [message[2:] for message in server.messages] == [data[2:]]
    flags = wire.flags(data) | wire.QR
    assert answer == data[:2] + flags.to_bytes(2, "big") + data[4:]


def test_id_toward_the_server_is_another(running: Balancer, server: NameServer, client: OpenClient) -> None:
    one = client(running.address)
    asked = [wire.query(ident=number) for number in range(8)]
    for data in asked:
        one.ask(data)
    # By chance one may be equal, not all.
    assert [wire.ident(data) for data in server.messages] != [wire.ident(data) for data in asked]


def test_update_keeps_its_id(running: Balancer, server: NameServer, client: OpenClient) -> None:
    """SIG(0) signs the id (RFC 2931 §3.1)."""
    one = client(running.address)
    asked = [wire.query(opcode="UPDATE", qtype="SOA") for _ in range(20)]
    for data in asked:
        one.ask(data)
    assert server.messages == asked


def test_updates_of_the_same_id_at_once(running: Balancer, server: NameServer, client: OpenClient) -> None:
    server.handler = lambda received: []
    clients = [client(running.address) for _ in range(4)]
    for number, one in enumerate(clients):
        one.send(wire.query(f"zone{number}.example", "SOA", opcode="UPDATE", ident=77))
    server.answer_all(reversed(server.wait(4)))
    assert [wire.qname(one.receive()) for one in clients] == [f"zone{number}.example" for number in range(4)]
    assert {wire.ident(data) for data in server.messages} == {77}


def lowered(data: bytes) -> bytes:
    """The name in lower case (type and class A, IN have no letters)."""
    return data[: wire.HEADER] + data[wire.HEADER :].lower()


def test_answer_in_another_case_is_relayed_as_written(
    running: Balancer, server: NameServer, client: OpenClient
) -> None:
    """The question is compared without regard to case (RFC 4343)."""
    server.handler = always(lambda data: wire.answer(lowered(data), wire.address_record()))
    data = wire.query("WWW.Example")
    assert client(running.address).ask(data) == wire.answer(lowered(data), wire.address_record())


@pytest.mark.parametrize("code", wire.RCODES)
def test_answer_with_question_is_relayed_whatever_its_rcode(
    running: Balancer, server: NameServer, client: OpenClient, code: str
) -> None:
    server.handler = always(lambda data: wire.answer(data, code=code))
    data = wire.query()
    before = running.server()["answers"]
    assert client(running.address).ask(data) == wire.answer(data, code=code)
    after = running.server()["answers"]
    counted = {key: after[key] - before.get(key, 0) for key in after}
    assert {key: count for key, count in counted.items() if count} == {code: 1}


@pytest.mark.parametrize("code", ["REFUSED", "SERVFAIL", "FORMERR", "NOTIMP"])
def test_error_without_question_is_relayed(
    running: Balancer, server: NameServer, client: OpenClient, code: str
) -> None:
    server.handler = always(lambda data: wire.header_only(data, code))
    data = wire.query()
    assert client(running.address).ask(data) == wire.header_only(data, code)


def test_truncated_answer_is_relayed(running: Balancer, server: NameServer, client: OpenClient) -> None:
    """TC=1 is the client's business: it asks again over TCP."""
    server.handler = always(lambda data: wire.answer(data, flags_set=wire.QR | wire.TC))
    data = wire.query()
    assert client(running.address).ask(data) == wire.answer(data, flags_set=wire.QR | wire.TC)


@pytest.mark.parametrize("size", [512, 1232, 1500, 4096, 8192, 65000, 65507])
def test_large_answer_is_relayed(
    running: Balancer, server: NameServer, client: OpenClient, size: int
) -> None:
    made: list[bytes] = []

    def make(data: bytes) -> bytes:
        made.append(wire.sized_answer(data, size))
        return made[-1]

    server.handler = always(make)
    answer = client(running.address).ask(wire.query())
    assert len(answer) == size
    assert answer[2:] == made[0][2:]


def test_many_large_answers_at_once(running: Balancer, server: NameServer, client: OpenClient) -> None:
    """More bytes than one batch of small buffers would hold."""
    server.handler = always(lambda data: wire.sized_answer(data, 16_000))
    answers = client(running.address).ask_all([wire.query(ident=number) for number in range(8)])
    assert {len(answer) for answer in answers.values()} == {16_000}


def test_broken_answer_harms_nobody(running: Balancer, server: NameServer, client: OpenClient) -> None:
    """A label that points nowhere, a record cut off: the client's business if the question is right."""
    server.handler = always(lambda data: wire.answer(data, b"\xc0\xff\xff\xff", b"\x3f"))
    data = wire.query()
    assert client(running.address).ask(data) == wire.answer(data, b"\xc0\xff\xff\xff", b"\x3f")
    server.handler = echo
    ask(running.address)


def test_same_id_and_name_from_two_clients_at_once(
    running: Balancer, server: NameServer, client: OpenClient
) -> None:
    server.handler = lambda received: []
    first, second = client(running.address), client(running.address)
    data = wire.query(ident=4711)
    first.send(data)
    server.wait(1)
    second.send(data)
    one, other = server.wait(2)
    server.answer_all([other], lambda data: wire.answer(data, wire.address_record("192.0.2.2")))
    server.answer_all([one], lambda data: wire.answer(data, wire.address_record("192.0.2.1")))
    assert first.receive() == wire.answer(data, wire.address_record("192.0.2.1"))
    assert second.receive() == wire.answer(data, wire.address_record("192.0.2.2"))
    first.nothing_comes()
    second.nothing_comes(0.01)


def test_same_query_sent_twice_by_one_client(
    running: Balancer, server: NameServer, client: OpenClient
) -> None:
    """A client that repeats itself is answered twice: each datagram is a query of its own."""
    one = client(running.address)
    data = wire.query(ident=99)
    one.send(data)
    one.send(data)
    assert one.receive() == one.receive()
    assert len(server.wait(2)) == 2


def test_many_queries_of_one_port_answered_in_reverse(
    running: Balancer, server: NameServer, client: OpenClient
) -> None:
    server.handler = lambda received: []
    one = client(running.address)
    asked = [wire.query(f"n{number}.example", ident=number) for number in range(100)]
    for data in asked:
        one.send(data)
    server.answer_all(reversed(server.wait(100)))
    answers = {wire.ident(answer): answer for answer in (one.receive() for _ in asked)}
    assert answers == {wire.ident(data): wire.answer(data, wire.address_record()) for data in asked}


def test_a_resolver_library_is_content(running: Balancer, server: NameServer) -> None:
    """dnspython's own view of a whole exchange: ids, flags, question, EDNS."""
    server.handler = always(
        lambda data: dns.message.make_response(dns.message.from_wire(data), our_payload=1232).to_wire()
    )
    asked = dns.message.make_query("www.example", "AAAA", use_edns=0, want_dnssec=True)
    with Client(running.address) as one:
        answer = dns.message.from_wire(one.ask(asked.to_wire()))
    assert asked.is_response(answer)
    assert answer.edns == 0


def test_a_burst_larger_than_any_batch(running: Balancer, server: NameServer, client: OpenClient) -> None:
    """2000 queries find the worker asleep; they wait in the socket's buffer and are all answered."""
    clients = [client(running.address) for _ in range(50)]
    with running.frozen():
        for number in range(2000):
            clients[number % 50].send(wire.query(ident=number))
    for start, one in enumerate(clients):
        assert sorted(wire.ident(one.receive()) for _ in range(40)) == list(range(start, 2000, 50))
    assert running.service()["socket_drops"] == 0


def test_clients_that_are_gone_harm_nobody(running: Balancer, server: NameServer, client: OpenClient) -> None:
    """The kernel answers their answers with port unreachable; the listener must stay deaf to that."""
    server.handler = lambda received: []
    one = client(running.address)
    for number in range(30):
        one.send(wire.query(ident=number))
        with Client(running.address) as gone:
            gone.send(wire.query(ident=number))
    received = server.wait(60)
    with running.frozen():
        server.answer_all(received)
    assert sorted(wire.ident(one.receive()) for _ in range(30)) == list(range(30))
    server.handler = echo
    one.ask(wire.query())
    assert running.dropped() == {}
