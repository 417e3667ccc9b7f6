"""Routes, MTU and addresses: what the kernel refuses for one client must not cost another its answer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from tests.conftest import StartBalancer
from tests.helpers import wire
from tests.helpers.client import Client
from tests.helpers.config import Server, Settings
from tests.helpers.daemon import run_command
from tests.helpers.nameserver import NameServer, always, silent
from tests.helpers.netns import Namespace, connect, require_netns
from tests.helpers.ports import address, free_address
from tests.helpers.spoof import Spoofer
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.net

BALANCER4, CLIENT4, STRANGER4 = "192.0.2.1", "192.0.2.2", "198.51.100.7"
BALANCER6, CLIENT6, STRANGER6 = "2001:db8::1", "2001:db8::2", "2001:db8:ffff::7"


@pytest.fixture
def inside() -> Iterator[Namespace]:
    """A namespace that has loopback and no other way out."""
    require_netns()
    with Namespace("inside") as namespace:
        yield namespace


@pytest.fixture
def outside(inside: Namespace) -> Iterator[Namespace]:
    """A second namespace on a wire with the first; 192.0.2.1 and 2001:db8::1 here, .2 and ::2 there."""
    with Namespace("outside") as namespace:
        connect(inside, namespace)
        inside.add_address(f"{BALANCER4}/24", "veth0")
        inside.add_address(f"{BALANCER6}/64", "veth0")
        namespace.add_address(f"{CLIENT4}/24", "veth0")
        namespace.add_address(f"{CLIENT6}/64", "veth0")
        yield namespace


@contextlib.contextmanager
def server_in(namespace: Namespace, *args: object, **kwargs: object) -> Iterator[NameServer]:
    with namespace.entered():
        server = NameServer(*args, **kwargs)  # type: ignore[arg-type]
    with server:
        yield server


@contextlib.contextmanager
def client_in(namespace: Namespace, asked: str, source: str | None = None) -> Iterator[Client]:
    with namespace.entered():
        client = Client(asked, source)
    with client:
        yield client


def heard(client: Client) -> bool:
    """Whether one query is answered soon; earlier ones, answered late, may come before it."""
    data = wire.query()
    client.send(data)
    with contextlib.suppress(AssertionError):
        while client.receive(0.5)[:2] != data[:2]:
            pass
        return True
    return False


@pytest.mark.parametrize(("host", "route"), [(BALANCER4, f"{CLIENT4}/32"), (BALANCER6, f"{CLIENT6}/128")])
def test_large_answer_over_a_route_of_small_mtu(
    start: StartBalancer, inside: Namespace, outside: Namespace, host: str, route: str
) -> None:
    """It is cut into fragments, not refused: the listeners do not set Don't Fragment."""
    inside.ip("route", "replace", route, "dev", "veth0", "mtu", "1280")
    with server_in(inside, always(lambda data: wire.sized_answer(data, 4096))) as server:
        asked = address(host, 5300)
        start([server.address], [asked], prefix=inside.prefix)
        with client_in(outside, asked) as client:
            for number in range(5):
                assert len(client.ask(wire.query(ident=number))) == 4096


@pytest.mark.parametrize("host", [BALANCER4, BALANCER6])
def test_large_answer_over_a_wire_of_small_mtu(
    start: StartBalancer, inside: Namespace, outside: Namespace, host: str
) -> None:
    for end in (inside, outside):
        end.ip("link", "set", "veth0", "mtu", "1280")
    with server_in(inside, always(lambda data: wire.sized_answer(data, 8192))) as server:
        asked = address(host, 5300)
        start([server.address], [asked], prefix=inside.prefix)
        with client_in(outside, asked) as client:
            for number in range(5):
                assert len(client.ask(wire.query(ident=number))) == 8192


@pytest.mark.parametrize(("host", "stranger"), [("127.0.0.1", STRANGER4), ("::1", STRANGER6)])
def test_no_route_to_one_client_of_a_batch(
    start: StartBalancer, inside: Namespace, host: str, stranger: str
) -> None:
    """All others are answered; the one is counted."""
    with server_in(inside, silent, host) as server:
        asked = address(host, 5300)
        balancer = start([server.address], [asked], prefix=inside.prefix)
        with (
            client_in(inside, asked) as client,
            inside.entered(),
            contextlib.closing(Spoofer(asked)) as spoofer,
        ):
            for number in range(24):
                client.send(wire.query(ident=number))
                if number in (0, 11, 12, 23):
                    spoofer.send(wire.query("forged.example"), stranger, 4000)
            received = server.wait(28)
            with balancer.frozen():
                server.answer_all(received)
            assert sorted(wire.ident(client.receive()) for _ in range(24)) == list(range(24))
        balancer.wait_dropped({"client_unreachable": 4})


def test_address_that_is_not_here_yet(start: StartBalancer, inside: Namespace) -> None:
    """No network at boot is a reason to wait, not to end: it answers as soon as the address is there."""
    with server_in(inside) as server:
        for host in (BALANCER4, BALANCER6):
            asked = address(host, 5300)
            balancer = start([server.address], [asked], prefix=inside.prefix, wait=False)
            time.sleep(1)
            assert balancer.process.poll() is None, balancer.output()
            inside.add_address(f"{host}/128" if ":" in host else f"{host}/32")
            balancer.wait_ready()
            with client_in(inside, asked) as client:
                client.ask(wire.query())


def test_server_that_has_no_route_yet(start: StartBalancer, inside: Namespace, outside: Namespace) -> None:
    """Started before the network was: the server is asked as soon as there is a way to it."""
    inside.ip("link", "set", "veth0", "down")
    with server_in(outside, host=CLIENT4) as server, server_in(inside) as near:
        servers = [server.address, near.address]
        balancer = start(servers, ["127.0.0.1:5300"], prefix=inside.prefix)
        with client_in(inside, balancer.address) as client:
            client.ask(wire.query())
            inside.ip("link", "set", "veth0", "up")
            wait_for("the far server is asked", lambda: client.ask(wire.query()) and server.received)


def test_end_while_waiting_for_an_address(start: StartBalancer, inside: Namespace) -> None:
    balancer = start([free_address()], ["192.0.2.9:5300"], prefix=inside.prefix, wait=False)
    wait_for("it waits", lambda: "192.0.2.9:5300" in balancer.output())
    balancer.terminate()
    balancer.wait_ended()


def test_address_that_goes_and_comes_back(
    start: StartBalancer, inside: Namespace, outside: Namespace
) -> None:
    """The listener stays; it answers again as soon as the address is back."""
    with server_in(inside) as server:
        asked = address(BALANCER4, 5300)
        start([server.address], [asked], prefix=inside.prefix)
        with client_in(outside, asked) as client:
            client.ask(wire.query())
            inside.ip("address", "delete", f"{BALANCER4}/24", "dev", "veth0")
            with contextlib.suppress(ConnectionRefusedError, OSError):
                client.send(wire.query())
            inside.add_address(f"{BALANCER4}/24", "veth0")
        with client_in(outside, asked) as client:
            client.ask(wire.query())


def test_route_to_the_server_goes_and_comes_back(
    start: StartBalancer, inside: Namespace, outside: Namespace
) -> None:
    """ENETUNREACH toward the server: its sockets are opened anew, and no restart is needed."""
    with server_in(outside, host=CLIENT4) as server:
        balancer = start([server.address], ["127.0.0.1:5300"], prefix=inside.prefix, udp_timeout="0.5s")
        with client_in(inside, balancer.address) as client:
            client.ask(wire.query())
            inside.ip("link", "set", "veth0", "down")
            for number in range(20):
                client.send(wire.query(ident=number))
            client.nothing_comes()
            inside.ip("link", "set", "veth0", "up")
            wait_for("the server is heard again", lambda: heard(client))


def test_no_route_to_one_server_of_two(start: StartBalancer, inside: Namespace, outside: Namespace) -> None:
    """Its part of each batch goes to the other, which answers all; it is asked again when there is a way."""
    with server_in(outside, host=CLIENT4) as far, server_in(inside) as near:
        balancer = start([far.address, near.address], ["127.0.0.1:5300"], prefix=inside.prefix)
        with client_in(inside, balancer.address) as client:
            client.ask_all([wire.query(ident=number) for number in range(64)])
            assert far.received
            inside.ip("link", "set", "veth0", "down")
            for _ in range(3):
                with balancer.frozen():
                    for number in range(64):
                        client.send(wire.query(ident=number))
                assert sorted(wire.ident(client.receive()) for _ in range(64)) == list(range(64))
            inside.ip("link", "set", "veth0", "up")
            before = len(far.received)
            wait_for("asked again", lambda: client.ask(wire.query()) and len(far.received) > before)


def test_source_address_toward_the_server_changes(
    start: StartBalancer, inside: Namespace, outside: Namespace
) -> None:
    """The address the sockets toward the server are bound to goes, another comes: they are opened anew."""
    with server_in(outside, host=CLIENT4) as server:
        toward = Server(server.address, sockets=2)
        balancer = start([toward], ["127.0.0.1:5300"], prefix=inside.prefix, udp_timeout="0.5s")
        with client_in(inside, balancer.address) as client:
            client.ask(wire.query())
            inside.ip("address", "delete", f"{BALANCER4}/24", "dev", "veth0")
            for _ in range(20):  # each of the sockets meets the error
                client.send(wire.query())
                time.sleep(0.02)
            inside.add_address("192.0.2.77/24", "veth0")
            wait_for("the server is heard again", lambda: heard(client))
            assert server.received[-1].source[0] == "192.0.2.77"


def test_port_53_without_the_right(inside: Namespace, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A fresh namespace guards the ports below 1024, whatever the host allows."""
    folder = tmp_path_factory.mktemp("refused")
    config = folder / "ns7.toml"
    config.write_text(Settings(["127.0.0.1:5301"], ["127.0.0.1:53"]).text(folder / "ns7.sock"))
    prefix = [*inside.prefix, "setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-all"]
    done = run_command("run", "-c", str(config), prefix=prefix)
    assert done.returncode == 2, done
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "127.0.0.1:53" in done.stderr
