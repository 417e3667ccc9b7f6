"""NSD and BIND behind ns7: clients see what they would see asking the server itself."""

from __future__ import annotations

from collections.abc import Iterator

import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.tsigkeyring
import dns.update
import pytest

from tests.conftest import StartBalancer
from tests.helpers import wire
from tests.helpers.client import Client, ask, edns_query, load
from tests.helpers.daemon import Balancer
from tests.helpers.ports import split
from tests.helpers.servers import KEY_NAME, KEY_SECRET, ZONE, named, nsd

ASKED = {
    "SOA": wire.query(ZONE, "SOA"),
    "A": wire.query(f"www.{ZONE}"),
    "AAAA": wire.query(f"www.{ZONE}", "AAAA"),
    "mixed case": wire.query(f"wWw.{ZONE}".replace("e", "E")),
    "alias": wire.query(f"alias.{ZONE}"),
    "wildcard": wire.query(f"any.wild.{ZONE}"),
    "no such name": wire.query(f"nowhere.{ZONE}"),
    "no data": wire.query(f"www.{ZONE}", "TXT"),
    "not our zone": wire.query("www.example.net"),
    "large without EDNS": wire.query(f"large.{ZONE}", "TXT"),
    "large, 1232": edns_query(f"large.{ZONE}", "TXT", payload=1232),
    "large, 4096": edns_query(f"large.{ZONE}", "TXT", payload=4096),
    "ANY": edns_query(f"www.{ZONE}", "ANY"),
    "NSID": edns_query(f"www.{ZONE}", options=[(3, b"")]),
    "unknown option": edns_query(f"www.{ZONE}", options=[(65001, b"x")]),
    "EDNS version 9": edns_query(f"www.{ZONE}")[:-5] + b"\x09\0\0\0\0",
    "no question": wire.header(1, 0, (0, 0, 0, 0)),
    "opcode 15": wire.header(1, 15 << 11) + wire.question(ZONE),
}


@pytest.fixture(scope="module", params=[nsd, named], ids=["NSD", "BIND"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Balancer]]:
    """A real server's address, and a balancer in front of it."""
    with request.param(tmp_path_factory.mktemp("server")) as server:
        everybody = {"update": ["0.0.0.0/0"]}
        with Balancer(tmp_path_factory.mktemp("ns7"), [server], admit=everybody) as balancer:
            yield server, balancer


@pytest.mark.parametrize("data", ASKED.values(), ids=ASKED.keys())
def test_same_answer_as_from_the_server(pair: tuple[str, Balancer], data: bytes) -> None:
    server, balancer = pair
    with Client(server) as direct:
        direct.send(data)
        try:
            expected = direct.receive(1)
        except AssertionError:  # some servers say nothing to nonsense
            pytest.skip("the server itself does not answer this")
    assert ask(balancer.address, data) == expected


def test_both_kinds_behind_one_address(
    start: StartBalancer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with nsd(tmp_path_factory.mktemp("nsd")) as one, named(tmp_path_factory.mktemp("named")) as other:
        balancer = start([one, other], workers=2)
        seen = load(balancer.address, 500, 2)
        assert seen.lost == []
        counts = [server["queries"] - server["resends"] for server in balancer.wait_idle()["servers"]]
        assert sum(counts) == seen.sent
        assert min(counts) > 0.3 * seen.sent


def test_signed_update_through_ns7(start: StartBalancer, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A TSIG-signed dynamic update (RFC 2136) is taken, and the new record is served."""
    with named(tmp_path_factory.mktemp("named")) as server:
        host, port = split(start([server], admit={"update": ["127.0.0.0/8"]}).address)
        keys = dns.tsigkeyring.from_text({KEY_NAME: KEY_SECRET})
        update = dns.update.UpdateMessage(
            ZONE, keyring=keys, keyname=dns.name.from_text(KEY_NAME), keyalgorithm="hmac-sha256"
        )
        update.add("fresh", 300, "A", "192.0.2.99")
        answer = dns.query.udp(update, host, timeout=10, port=port)
        assert answer.rcode() == dns.rcode.NOERROR
        asked = dns.message.make_query(f"fresh.{ZONE}", "A")
        assert "192.0.2.99" in dns.query.udp(asked, host, timeout=10, port=port).to_text()
