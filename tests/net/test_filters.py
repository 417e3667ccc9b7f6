"""A packet filter that forbids sending (EPERM from sendmsg): toward one client, toward one server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import StartBalancer
from tests.helpers import wire
from tests.helpers.client import Client
from tests.helpers.nameserver import NameServer, silent
from tests.helpers.netns import Namespace, require_netns
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.net

LISTEN = "127.0.0.1:5300"
FORBIDDEN = "127.0.0.66"


@pytest.fixture
def inside() -> Iterator[Namespace]:
    require_netns()
    with Namespace("filter") as namespace:
        yield namespace


def chain(namespace: Namespace, hook: str, rule: str) -> None:
    """One chain with one rule; nft wants the lines."""
    namespace.nft(f"table inet t {{\nchain c {{\ntype filter hook {hook} priority 0\n{rule}\n}}\n}}\n")


def forbid(namespace: Namespace, match: str) -> None:
    chain(namespace, "output", f"{match} drop")


def allow(namespace: Namespace) -> None:
    namespace.nft("flush ruleset")


def open_server(namespace: Namespace, *args: object, **kwargs: object) -> NameServer:
    with namespace.entered():
        return NameServer(*args, **kwargs)  # type: ignore[arg-type]


def open_client(namespace: Namespace, source: str | None = None) -> Client:
    with namespace.entered():
        return Client(LISTEN, source)


def test_one_client_of_a_batch_may_not_be_sent_to(start: StartBalancer, inside: Namespace) -> None:
    with (
        open_server(inside, silent) as server,
        open_client(inside) as client,
        open_client(inside, FORBIDDEN) as forbidden,
    ):
        balancer = start([server.address], [LISTEN], prefix=inside.prefix)
        forbid(inside, f"ip daddr {FORBIDDEN}")
        for number in range(24):
            client.send(wire.query(ident=number))
            if number in (0, 11, 12, 23):
                forbidden.send(wire.query(ident=number))
        received = server.wait(28)
        with balancer.frozen():
            server.answer_all(received)
        assert sorted(wire.ident(client.receive()) for _ in range(24)) == list(range(24))
        balancer.wait_dropped({"client_denied": 4})
        allow(inside)
        forbidden.send(wire.query(ident=99))
        server.answer_all(server.wait(29)[28:])
        assert wire.ident(forbidden.receive()) == 99


def test_refusal_to_a_client_that_may_not_be_sent_to(start: StartBalancer, inside: Namespace) -> None:
    """Our own REFUSED cannot be sent either; it harms nobody and each query is accounted for once."""
    with (
        open_server(inside) as server,
        open_client(inside) as client,
        open_client(inside, FORBIDDEN) as forbidden,
    ):
        balancer = start([server.address], [LISTEN], prefix=inside.prefix)
        forbid(inside, f"ip daddr {FORBIDDEN}")
        with balancer.frozen():
            for number in range(10):
                forbidden.send(wire.query("zone.example", "AXFR"))
                client.send(wire.query(ident=number))
        assert sorted(wire.ident(client.receive()) for _ in range(10)) == list(range(10))
        balancer.wait_idle()
        assert sum(balancer.dropped().values()) == 10


def test_one_server_of_two_may_not_be_sent_to(start: StartBalancer, inside: Namespace) -> None:
    """Its part of each batch goes to the other; it is asked again when that is allowed."""
    with (
        open_server(inside) as first,
        open_server(inside) as second,
        open_client(inside) as client,
    ):
        balancer = start([first.address, second.address], [LISTEN], prefix=inside.prefix)
        forbid(inside, f"udp dport {first.port}")
        for _ in range(5):
            with balancer.frozen():
                for number in range(24):
                    client.send(wire.query(ident=number))
            assert sorted(wire.ident(client.receive()) for _ in range(24)) == list(range(24))
        assert first.received == []
        allow(inside)
        wait_for("asked again", lambda: client.ask(wire.query()) and first.received)


def test_the_only_server_may_not_be_sent_to(start: StartBalancer, inside: Namespace) -> None:
    with open_server(inside) as server, open_client(inside) as client:
        balancer = start([server.address], [LISTEN], prefix=inside.prefix, udp_timeout="0.5s")
        forbid(inside, f"udp dport {server.port}")
        for number in range(10):
            client.send(wire.query(ident=number))
        answers = [client.receive() for _ in range(10)]
        assert {wire.rcode(answer) for answer in answers} == {wire.RCODES["SERVFAIL"]}, "nobody could be asked in time"
        balancer.wait_idle()
        assert server.received == []
        allow(inside)

        def asked() -> bool:
            client.send(wire.query())
            return bool(server.received)

        wait_for("asked again", asked, every=0.2)
        client.receive()


def test_server_rejected_by_a_filter_on_the_way(start: StartBalancer, inside: Namespace) -> None:
    """An ICMP error that quotes the query, from a filter instead of a closed port."""
    with (
        open_server(inside) as first,
        open_server(inside) as second,
        open_client(inside) as client,
    ):
        balancer = start([first.address, second.address], [LISTEN], prefix=inside.prefix)
        chain(inside, "input", f"udp dport {first.port} reject with icmp type port-unreachable")
        for _ in range(5):
            client.ask_all([wire.query(ident=number) for number in range(24)])
        assert balancer.server(0)["refusals"] > 0
        allow(inside)
        wait_for("asked again", lambda: client.ask(wire.query()) and first.received)
