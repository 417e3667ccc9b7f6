"""The control socket under hostile clients: refused or cut off in bounded memory, forwarding untouched."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import random
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from tests.conftest import StartBalancer, StartServer
from tests.helpers.client import load
from tests.helpers.daemon import Balancer
from tests.helpers.need import missing
from tests.helpers.ports import free_address, split
from tests.helpers.waiting import wait_for
from tests.scenario.test_components import WITNESS, running

NONSENSE = [
    b"\n", b"{}\n", b"[]\n", b"null\n", b"1e999\n", b'{"verb": 7}\n', b'{"verb": "nonsense"}\n', b'{"verb": "a.b"}\n',
    b'{"verb": "alert.list", "timeout": -1}\n', b'{"verb": "alert.list", "arguments": []}\n', b"\xff\xfe\0\n",
    b"[" * 2000 + b"\n", b'{"verb": "' + b"x" * 3000 + b'"}\n', b'{"verb": "status"\n',
]
MIB = 1 << 20


@contextlib.contextmanager
def connection(balancer: Balancer) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(10)
        wait_for("a place in the queue of the control socket", lambda: _connected(sock, str(balancer.control)))
        yield sock


def _connected(sock: socket.socket, path: str) -> bool:
    with contextlib.suppress(BlockingIOError):          # its queue is full for a moment
        sock.connect(path)
        return True
    return False


def resident(pid: int) -> int:
    """Bytes of memory in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def answer(lines: BinaryIO) -> dict[str, object]:
    line = lines.readline()
    assert line.endswith(b"\n"), "cut off"
    found: dict[str, object] = json.loads(line)
    return found


@pytest.fixture
def balancer(start: StartBalancer, nameserver: StartServer) -> Balancer:
    return start([nameserver().address])


@pytest.mark.parametrize("data", NONSENSE)
def test_nonsense_is_refused_and_the_next_request_is_answered(balancer: Balancer, data: bytes) -> None:
    with connection(balancer) as sock, sock.makefile("rb") as lines:
        sock.sendall(data)
        refused = answer(lines)
        assert refused["ok"] is False and refused["error"]
        sock.sendall(b'{"verb": "status"}\n')
        assert answer(lines)["ok"] is True


def test_flood_of_nonsense(balancer: Balancer) -> None:
    """10,000 malformed requests over a few connections, while queries are forwarded."""
    chosen = random.Random(7)
    before = resident(balancer.pid)

    def flood() -> None:
        for _ in range(10):
            with connection(balancer) as sock, sock.makefile("rb") as lines:
                for _ in range(50):
                    batch = [chosen.choice(NONSENSE) for _ in range(20)]
                    sock.sendall(b"".join(batch))
                    for _ in batch:
                        assert answer(lines)["ok"] is False

    seen = load(balancer.address, 200, 2, [(0.2, flood)])
    assert seen.lost == [] and seen.twice == 0
    assert resident(balancer.pid) - before < 32 * MIB
    assert balancer.status()["ready"]


def test_line_that_never_ends(balancer: Balancer) -> None:
    """Cut off after 64 kB, whatever follows."""
    before = resident(balancer.pid)
    for _ in range(20):
        with connection(balancer) as sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(200):
                sock.sendall(b"x" * 65536)
            assert sock.recv(1) == b""
    assert resident(balancer.pid) - before < 32 * MIB
    assert balancer.status()["ready"]


def test_half_requests_and_idle_clients(balancer: Balancer) -> None:
    """More clients than are served: the surplus is closed, the places are free again when they go."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connection(balancer)) for _ in range(200)]
        for sock in clients:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(b'{"verb": "sta')
        seen = load(balancer.address, 200, 1)
        assert seen.lost == []

    def served() -> bool:
        with contextlib.suppress(OSError, ValueError):
            return bool(balancer.request("status")["ok"])
        return False

    wait_for("served again", served)


def test_client_that_never_reads(balancer: Balancer) -> None:
    """Its own requests wait; memory is bounded, others are answered."""
    before = resident(balancer.pid)
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            sock = stack.enter_context(connection(balancer))
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(5000):
                    sock.send(b'{"verb": "status"}\n' * 50)
        seen = load(balancer.address, 200, 1)
        assert seen.lost == []
        assert balancer.status()["ready"]
        assert resident(balancer.pid) - before < 64 * MIB


def test_group_that_may_use_it(start: StartBalancer, nameserver: StartServer) -> None:
    if os.geteuid() != 0:
        missing("giving the socket to another group needs root")
    balancer = start([nameserver().address], admin={"socket_group": "daemon"})
    status = balancer.control.stat()
    assert (stat.S_IMODE(status.st_mode), grp.getgrgid(status.st_gid).gr_name) == (0o660, "daemon")
    balancer.rewrite(admin={})
    done = balancer.command("reload")
    assert done.returncode == 2 and "admin.socket_group" in done.stderr
    other = start([nameserver().address], admin={"socket_group": "no-such-group"}, wait=False)
    other.wait_ended(code=2)
    assert "there is no group no-such-group" in other.output()


def events(balancer: Balancer, kind: str) -> list[tuple[str, str, str, str]]:
    """(subject, before, after, reason) of the events of a kind, as /api/v1/events tells them."""
    found = []
    with socket.create_connection(split(balancer.settings.http[0]), timeout=1) as one:
        one.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: test\r\n\r\n")
        text = b""
        with contextlib.suppress(TimeoutError):
            one.settimeout(0.3)
            while data := one.recv(65536):
                text += data
    for line in text.decode().splitlines():
        if line.startswith("data: ") and (event := json.loads(line[6:]))["kind"] == kind:
            found.append((event["subject"], event["before"], event["after"], event["reason"]))
    return found


@contextlib.contextmanager
def acting_as(user: str) -> Iterator[None]:
    """With the rights of another user, in folders that are open already."""
    found, groups = pwd.getpwnam(user), os.getgroups()
    os.setgroups([])
    os.setegid(found.pw_gid)
    os.seteuid(found.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def asked_as(user: str, balancer: Balancer, verb: str, **fields: Any) -> dict[str, Any]:
    """One request by another user; PermissionError when the socket is not for it."""
    with contextlib.chdir(balancer.folder), socket.socket(socket.AF_UNIX) as sock:
        with acting_as(user):
            sock.connect(balancer.control.name)
        sock.settimeout(10)
        with sock.makefile("rwb") as lines:
            lines.write(json.dumps({"verb": verb, **fields}).encode() + b"\n")
            lines.flush()
            return answer(lines)


def test_every_change_is_told_with_who_made_it(start: StartBalancer, nameserver: StartServer) -> None:
    """In the log and in the events: of the supervisor's own verbs and of a component's."""
    if os.geteuid() != 0:
        missing("being another user needs root")
    balancer = start([nameserver().address, nameserver().address], admin={"socket_group": "daemon"}, env=WITNESS,
                     more="[witness]", http=[free_address()])
    balancer.folder.chmod(0o711)
    wait_for("all run", lambda: all(running(balancer, name) for name in ("witness", "admin")))
    with pytest.raises(PermissionError):
        asked_as("nobody", balancer, "status")
    one, two = balancer.settings.servers
    for verb, fields in (("server.set", {"server": "s1", "weight": 3}), ("server.saved", {"server": "dns/s1"}),
                         ("server.remove", {"server": "s2"}), ("server.set", {"server": "s2", "reset": True}),
                         ("witness.turn", {"arguments": {"to": 9}}), ("witness.turn", {"arguments": {"to": 9}}),
                         ("witness.tell", {}), ("status", {})):
        assert asked_as("daemon", balancer, verb, **fields)["ok"]
    refused = asked_as("daemon", balancer, "witness.turn", arguments={"to": 13})
    assert not refused["ok"], "it fails, and has changed something all the same"
    balancer.rewrite(udp_timeout="3s")
    assert asked_as("daemon", balancer, "reload")["ok"]
    s1, s2 = f"{one}, weight", f"{two}, weight 1, state auto"
    expected = [
        ("server dns/s1", f"{s1} 1, state auto", f"{s1} 3, state auto"),
        ("server.saved dns/s1", "live", f"in {balancer.config}"),
        ("server dns/s2", s2, "removed"), ("server dns/s2", "removed", s2),
        ("witness.turn", "0", "9"), ("witness.turn", "9", "13")]
    told = wait_for("all are told", lambda: len(found := events(balancer, "audit")) == 7 and found)
    assert [event[:3] for event in told[:6]] == expected and {event[3] for event in told} == {"by daemon"}
    assert told[6][0] == "reload" and told[6][1] != told[6][2]
    log = [line for line in balancer.output().splitlines() if line.startswith("ns7 audit ")]
    assert log == [f"ns7 audit {subject}: {before} → {after}: {reason}" for subject, before, after, reason in told]
    assert balancer.request("alert.list")["result"]["open_total"] == 0, "nobody is mailed"
    assert asked_as("daemon", balancer, "stop")["ok"]
    balancer.wait_ended()
    assert "ns7 audit stop: running → stopping: by daemon" in balancer.output()
