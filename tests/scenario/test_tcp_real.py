"""NSD and BIND behind ns7 over TCP: what dig, nsupdate and a resolver library see."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import dns.edns
import dns.message
import dns.name
import dns.query
import dns.zone
import pytest

from tests.conftest import StartBalancer
from tests.helpers import ports, wire
from tests.helpers.client import Client
from tests.helpers.daemon import Balancer
from tests.helpers.need import require_program
from tests.helpers.servers import KEY_NAME, KEY_SECRET, ZONE, named, nsd
from tests.helpers.tcp import TcpClient

EVERYBODY = {kind: ["0.0.0.0/0"] for kind in ("query", "transfer", "update", "notify")}
KEY = f"hmac-sha256:{KEY_NAME}:{KEY_SECRET}"
RECORDS = 20_000


def many_records(folder: Path) -> None:
    """A zone that takes many messages to transfer."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"$ORIGIN {ZONE}.", "$TTL 300", "@ SOA ns hostmaster 1 3600 900 604800 300", "@ NS ns", "ns A 127.0.0.1"]
    lines += [f'n{number} TXT "{number} {"x" * 100}"' for number in range(RECORDS)]
    (folder / "zone").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module", params=[nsd, named], ids=["NSD", "BIND"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Balancer]]:
    """A real server's address, and a balancer in front of it."""
    folders = [tmp_path_factory.mktemp(name) for name in ("server", "ns7")]
    with request.param(folders[0]) as server, Balancer(folders[1], [server], admit=EVERYBODY) as balancer:
        yield server, balancer


ASKED = {
    "SOA": wire.query(ZONE, "SOA"),
    "A": wire.query(f"www.{ZONE}"),
    "large": wire.query(f"large.{ZONE}", "TXT"),
    "no such name": wire.query(f"nowhere.{ZONE}"),
    "keepalive": dns.message.make_query(
        f"www.{ZONE}", "A", use_edns=0, options=[dns.edns.GenericOption(11, b"")]).to_wire(),
    "not our zone": wire.query("www.example.net"),
}


@pytest.mark.parametrize("data", ASKED.values(), ids=ASKED.keys())
def test_same_answer_as_from_the_server(pair: tuple[str, Balancer], data: bytes) -> None:
    server, balancer = pair
    with TcpClient(server) as direct, TcpClient(balancer.address) as through:
        assert through.ask(data) == direct.ask(data)


def test_truncated_over_udp_whole_over_tcp(pair: tuple[str, Balancer]) -> None:
    _, balancer = pair
    data = wire.query(f"large.{ZONE}", "TXT")
    with Client(balancer.address) as udp, TcpClient(balancer.address) as tcp:
        assert wire.flags(udp.ask(data)) & wire.TC
        answer = tcp.ask(data)
    assert not wire.flags(answer) & wire.TC
    assert len(answer) > 2000


def test_transfer_and_more_on_one_connection(pair: tuple[str, Balancer]) -> None:
    _, balancer = pair
    host, port = ports.split(balancer.address)
    for _ in range(3):
        zone = dns.zone.from_xfr(dns.query.xfr(host, ZONE, port=port, timeout=10))
        assert dns.name.from_text("www", None) in zone.nodes
    with TcpClient(balancer.address) as client:
        client.say(wire.query(ZONE, "AXFR", ident=1))
        assert wire.ident(client.hear()) == 1
        assert wire.ident(client.ask(wire.query(f"www.{ZONE}", ident=2))) == 2


def test_pipelined_by_a_hundred(pair: tuple[str, Balancer]) -> None:
    _, balancer = pair
    with TcpClient(balancer.address) as client:
        client.say(*(wire.query(f"n{number}.wild.{ZONE}", ident=number) for number in range(100)))
        assert sorted(wire.ident(answer) for answer in client.hear_all(100)) == list(range(100))


def dig(balancer: Balancer, *arguments: str) -> str:
    host, port = ports.split(balancer.address)
    argv = [require_program("dig", "bind9-dnsutils"), f"@{host}", "-p", str(port), *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_signed_transfer_of_many_messages(
    start: StartBalancer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """dig -y checks the signature of every message; one byte changed or lost would show."""
    folder = tmp_path_factory.mktemp("named")
    with named(folder, prepare=many_records) as server:
        balancer = start([server], admit=EVERYBODY)
        text = dig(balancer, "-y", KEY, ZONE, "AXFR", "+nocmd")
        assert "Transfer failed" not in text
        assert sum("\tTXT\t" in line for line in text.splitlines()) == RECORDS
        messages = int(text.split("(messages ")[1].split(",")[0])
        assert messages > 10
        assert dig(balancer, "-y", KEY, "+tcp", "+short", f"n7.{ZONE}", "TXT").startswith('"7 ')


@pytest.mark.parametrize("way", [[], ["-v"]], ids=["UDP", "TCP"])
def test_signed_update(
    start: StartBalancer, tmp_path_factory: pytest.TempPathFactory, way: list[str]
) -> None:
    """nsupdate -y through ns7, over both; the second server would refuse it."""
    program = require_program("nsupdate", "bind9-dnsutils")
    with named(tmp_path_factory.mktemp("named")) as master, nsd(tmp_path_factory.mktemp("nsd")) as other:
        balancer = start([master, other], admit=EVERYBODY, service={"primary": "s1"})
        host, port = ports.split(balancer.address)
        for number in range(3):
            script = f"server {host} {port}\nzone {ZONE}\nupdate add new{number}.{ZONE}. 60 A 192.0.2.99\nsend\n"
            done = subprocess.run([program, "-y", KEY, *way], input=script, capture_output=True, text=True,
                                  timeout=30, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            with Client(master) as direct:
                assert wire.rcode(direct.ask(wire.query(f"new{number}.{ZONE}"))) == 0
        service = balancer.service()
        assert (service["tcp"] if way else service)["queries"] >= 3
