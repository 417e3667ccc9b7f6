"""The network the other tests stand on: everybody hears everybody, nobody hears the world, nothing is left."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.helpers import netns, processes, wire
from tests.helpers.client import QUIET, Client
from tests.helpers.daemon import ROOT
from tests.helpers.nameserver import NameServer
from tests.helpers.netns import Namespace, require_netns
from tests.helpers.network import Network
from tests.helpers.ports import address
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.net

HOSTS = {"client": 1, "plain": 11, "far": 12}


@pytest.fixture
def network() -> Iterator[Network]:
    require_netns()
    with Network(HOSTS, delayed=["far"]) as network:
        yield network


@contextlib.contextmanager
def asking(network: Network, server: str, family: int = 4) -> Iterator[Client]:
    """A client of "client" toward a name server on the host."""
    host = network[server].address4 if family == 4 else network[server].address6
    with network[server].entered():
        name_server = NameServer(host=host, port=5300)
    with network["client"].entered():
        client = Client(address(host, 5300))
    with name_server, client:
        yield client


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("server", ["plain", "far"])
def test_everybody_is_heard_at_once(network: Network, server: str, family: int) -> None:
    with asking(network, server, family) as client:
        client.ask(wire.query())


@pytest.mark.parametrize(
    ("family", "stranger"), [(socket.AF_INET, "198.51.100.1"), (socket.AF_INET6, "2001:db8:ffff::1")]
)
def test_no_way_out(network: Network, family: int, stranger: str) -> None:
    for space in (*network.hosts.values(), network.switch):
        with space.socket(family, socket.SOCK_DGRAM) as sock, pytest.raises(OSError, match="unreachable"):
            sock.connect((stranger, 53))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("server", ["plain", "far"])
def test_cut_and_mended(network: Network, server: str, family: int) -> None:
    """No error is heard while it is cut, the neighbour's address is asked for in vain, and then all is well."""
    with asking(network, server, family) as client:
        client.ask(wire.query())
        network.cut(server)
        network["client"].ip("neigh", "flush", "dev", "eth0")
        client.send(wire.query())
        client.nothing_comes()
        asked = client.server[0]

        def failed() -> bool:
            words = network["client"].run("ip", "neigh", "show", asked)
            return "FAILED" in words or "INCOMPLETE" in words

        wait_for("no answer to ARP", failed)
        network.mend(server)
        network["client"].ip("neigh", "flush", "dev", "eth0")
        client.ask(wire.query())


def test_dropped_and_allowed(network: Network) -> None:
    """Nobody is told; what does not match passes."""
    with asking(network, "plain") as client, asking(network, "far") as other:
        network.drop("plain", "udp dport 5300")
        network.drop("plain", "udp dport 5301", "output")
        network.drop("far", "udp dport 5301")
        client.send(wire.query())
        client.nothing_comes()
        other.ask(wire.query())
        network.drop("far")
        other.send(wire.query())
        other.nothing_comes()
        for name in HOSTS:
            network.allow(name)
        client.ask(wire.query())
        other.ask(wire.query())


def test_two_networks_do_not_meet(network: Network) -> None:
    with Network(HOSTS, delayed=["far"]) as second, asking(network, "far") as client:
        client.ask(wire.query())
        with second["client"].entered(), Client(client.server[0] + ":5300") as stranger:
            stranger.send(wire.query())
            with contextlib.suppress(ConnectionRefusedError):  # the second network's host answers: nobody there
                stranger.nothing_comes(QUIET)


def spaces() -> set[str]:
    return {path.name for path in netns.FOLDER.iterdir()} if netns.FOLDER.exists() else set()


def test_nothing_is_left_after_a_failure() -> None:
    """Whatever ran inside is gone too."""
    require_netns()
    before = spaces()
    with pytest.raises(ZeroDivisionError), Network(HOSTS, delayed=["far"]) as network:
        inside = network["far"].popen("sleep", "600")
        made = {space.name for space in (*network.hosts.values(), network.switch)}
        assert made <= spaces()
        raise ZeroDivisionError
    assert inside.wait(5) == -signal.SIGKILL
    assert not made & spaces(), before


def test_nothing_is_left_when_it_could_not_be_built() -> None:
    require_netns()
    made: list[str] = []
    with pytest.raises(AssertionError), pytest.MonkeyPatch.context() as patch:
        make = netns._unique

        def remember(purpose: str) -> str:
            made.append(make(purpose))
            return made[-1]

        patch.setattr(netns, "_unique", remember)
        Network({"one": 1, "two": 2, "three": 300}, delayed=["one"])
    assert len(made) == 4
    assert not set(made) & spaces()


KILLED = """
import os, signal, subprocess
from tests.helpers.network import Network
network = Network({"one": 1, "two": 2}, delayed=["two"])
inside = network["one"].popen("sleep", "600", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(inside.pid, *(space.name for space in (*network.hosts.values(), network.switch)), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_left_is_removed_and_nobody_elses(network: Network) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL, done
    pid, *left = done.stdout.split()
    try:
        netns.sweep.cache_clear()
        netns.sweep()
        assert not set(left) & spaces()
        wait_for("the process inside is gone", lambda: not processes.alive(int(pid)))
        with asking(network, "plain") as client:
            client.ask(wire.query())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def test_a_namespace_kills_what_it_started() -> None:
    require_netns()
    with Namespace("kill") as namespace:
        inside = namespace.popen("sleep", "600")
    assert inside.wait(5) == -signal.SIGKILL
