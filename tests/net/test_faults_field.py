"""The field of the fault trials: what is broken there is broken in the way it says, and whole again after."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import time
from collections.abc import Iterator

import pytest

from benchmarks.faults.field import DROPPED, Field
from benchmarks.faults.spoof import forge_unreachables
from benchmarks.lab import open_lab
from benchmarks.load import ask, query
from benchmarks.servers import PROBE, ZONE
from tests.helpers.need import require_program
from tests.helpers.netns import require_netns
from tests.helpers.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.net

IP_RECVERR = 11
LATENCY = 0.004


@pytest.fixture
def field() -> Iterator[Field]:
    require_netns()
    require_program("nsd", "nsd")
    with open_lab() as lab, Field(lab, LATENCY) as field:
        field.restore()
        yield field


@contextlib.contextmanager
def asking(field: Field, name: str) -> Iterator[socket.socket]:
    """A socket of the director, connected to the server."""
    with field.network["director"].socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(field.addresses[name])
        yield sock


def refused(sock: socket.socket) -> None:
    """Wait until a query is refused; Linux sends unreachables at a limited rate, so not each one is."""

    def once() -> bool:
        sock.settimeout(0.2)
        try:
            sock.send(query(PROBE, 1))
            sock.recv(512)
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            pass
        return False

    wait_for("refused", once)


def silent(sock: socket.socket) -> bool:
    return ask(sock, PROBE, 0.3) is None and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_latency_and_counts(field: Field) -> None:
    before = field.asked("s1")
    with asking(field, "s1") as sock:
        for _ in range(5):
            assert (ask(sock, PROBE, PATIENCE) or 0) >= LATENCY
    assert field.asked("s1") - before == 5


def test_killed_and_restored(field: Field) -> None:
    with asking(field, "s1") as sock, asking(field, "s2") as other:
        field.kill("s1")
        refused(sock)
        assert ask(other, PROBE, PATIENCE)
        field.restore()
        assert ask(sock, PROBE, PATIENCE)


@pytest.mark.parametrize("fault", ["freeze", "cut", "drop"])
def test_silent_and_restored(field: Field, fault: str) -> None:
    with asking(field, "s1") as sock, asking(field, "s2") as other:
        {"freeze": field.freeze, "cut": field.network.cut, "drop": field.network.drop}[fault]("s1")
        assert silent(sock)
        assert ask(other, PROBE, PATIENCE)
        field.restore()
        wait_for("answers again", lambda: ask(sock, PROBE, 1.0))


def test_refused_from_this_moment_to_that(field: Field) -> None:
    with asking(field, "s1") as sock:
        field.refuse("s1")
        refused(sock)
        field.network.allow("s1")
        assert ask(sock, PROBE, PATIENCE)


def test_bad_names_only(field: Field) -> None:
    field.drop_bad("s1")
    with asking(field, "s1") as sock:
        assert ask(sock, (f"{DROPPED}.{ZONE}", "A"), 0.3) is None
        assert ask(sock, PROBE, PATIENCE)


def test_forged_unreachables_reach_the_socket(field: Field) -> None:
    """The kernel takes them for true: each is an error on a socket that asked nothing."""
    with asking(field, "s1") as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        forge_unreachables(field.network["s1"], field.network["director"], field.addresses["s1"], 20)
        poll = select.poll()
        poll.register(sock, 0)
        deadline = time.monotonic() + PATIENCE
        seen: set[bytes] = set()
        while len(seen) < 20 and time.monotonic() < deadline:
            if poll.poll(100):
                quoted, ((_, _, data),), _, _ = sock.recvmsg(200, 200, socket.MSG_ERRQUEUE)
                assert int.from_bytes(data[:4], "little") == errno.ECONNREFUSED
                assert quoted[2:] == query(PROBE, 0)[2:]
                seen.add(quoted[:2])
        assert len(seen) > 15, "ids are random, a few may be alike"
