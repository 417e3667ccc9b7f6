"""What systemd and ns7 say to each other about descriptors and main processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import StartServer, StartTcpServer
from tests.helpers import processes, wire
from tests.helpers.client import Client, ask, load
from tests.helpers.daemon import ROOT, run_command
from tests.helpers.nameserver import silent
from tests.helpers.need import missing
from tests.helpers.ports import free_address, split
from tests.helpers.tcp import TcpClient
from tests.helpers.unit import Unit
from tests.helpers.waiting import wait_for
from tests.scenario.test_upgrade import both

StartUnit = Callable[..., Unit]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartUnit]:
    with processes.adopting():
        units: list[Unit] = []

        def make(*args: object, **kwargs: object) -> Unit:
            units.append(Unit(tmp_path, *args, **kwargs))
            return units[-1]

        try:
            yield make
        except BaseException:
            for unit in units:
                unit.kill()
            raise
        for unit in units:
            with unit:
                pass


def names(address: str, workers: int) -> list[str]:
    """What the store holds of one listen address."""
    host, port = split(address)
    return sorted([f"{proto}-{host.replace(':', '_')}-{port}" for proto in ("tcp", "udp")] * workers)


def test_restart_loses_nothing(start: StartUnit, nameserver: StartServer, tcpserver: StartTcpServer) -> None:
    """The queue of UDP and the backlog of TCP wait in the store: more queries than a server's socket holds."""
    unit = start([both(nameserver, tcpserver).address], workers=2)
    wait_for("stored", lambda: unit.manager.stored() == names(unit.address, 2))
    seen = load(unit.address, 600, 4, [(0.5, unit.restart)], patience=10)
    assert seen.lost == []
    assert unit.manager.stored() == names(unit.address, 2)
    assert unit.status()["pid"] == unit.manager.main
    assert unit.wait_idle()["queries"] > 0


def test_connection_waits_while_nobody_accepts(
    start: StartUnit, nameserver: StartServer, tcpserver: StartTcpServer
) -> None:
    """The supervisor is killed, its workers stood still before."""
    unit = start([both(nameserver, tcpserver).address])
    wait_for("stored", lambda: unit.manager.stored() == names(unit.address, 1))
    for pid in (unit.manager.main, *unit_workers(unit)):
        os.kill(pid, signal.SIGSTOP)
    with TcpClient(unit.address) as tcp, Client(unit.address) as udp:
        tcp.say(wire.query(ident=9))
        udp.send(wire.query(ident=8))
        unit.restart(signal.SIGKILL)
        assert (wire.ident(tcp.hear()), wire.ident(udp.receive())) == (9, 8)


def test_a_backlog_is_read_at_the_pace_of_the_answers(start: StartUnit, nameserver: StartServer) -> None:
    """What has waited in the kernel would be more at once than a server's socket holds; after a while all is read."""
    server = nameserver(silent)
    unit = start([server.address], udp_timeout="60s")
    wait_for("stored", lambda: unit.manager.stored() == names(unit.address, 1))
    for pid in (unit.manager.main, *unit_workers(unit)):
        os.kill(pid, signal.SIGSTOP)
    with Client(unit.address) as client:
        for number in range(1000):
            client.send(wire.query(ident=number))
        unit.restart(signal.SIGKILL)
        received = server.wait(1000)
        assert len([one for one in received if one.at < received[0].at + 0.3]) < 500
        server.answer_all(received)
        assert {wire.ident(client.receive()) for _ in range(1000)} == set(range(1000))


def unit_workers(unit: Unit) -> list[int]:
    return [pid for pid in processes.children_of(unit.manager.main) if processes.role(pid) == "worker"]


@pytest.mark.long
def test_store_follows_the_configuration(start: StartUnit, nameserver: StartServer) -> None:
    """Reloads and upgrades: exactly what the present workers listen on is kept."""
    first, second = free_address(), free_address("::1")
    unit = start([nameserver().address], listen=[first])
    wait_for("stored", lambda: unit.manager.stored() == names(first, 1))
    unit.reload(listen=[first, second], workers=2)
    both_of_them = sorted(names(first, 2) + names(second, 2))
    wait_for("more", lambda: unit.manager.stored() == both_of_them)
    unit.upgrade()
    assert unit.manager.main == unit.pid
    ask(second)
    unit.rewrite(listen=[second], workers=1)
    unit.upgrade()
    wait_for("less", lambda: unit.manager.stored() == names(second, 1))
    unit.wait_handed_over()
    unit.restart()
    ask(second)
    assert not {"READY=1", "STOPPING=1", "MAINPID", "FDSTORE=1"} & set(unit.manager.unheard)


def test_changed_file_at_a_restart(start: StartUnit, nameserver: StartServer) -> None:
    """What does not match any more is closed, and leaves the store."""
    first, second = free_address(), free_address()
    unit = start([nameserver().address], listen=[first], workers=2)
    wait_for("stored", lambda: unit.manager.stored() == names(first, 2))
    unit.rewrite(listen=[second], workers=1)
    unit.restart()
    wait_for("the new one", lambda: unit.manager.stored() == names(second, 1))
    ask(second)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(split(first))


def test_odd_descriptors_are_closed(start: StartUnit, nameserver: StartServer) -> None:
    """A store that holds anything: nothing of it is used or stays open, whatever it is called."""
    listen = free_address()
    ends = [*os.pipe(), *(one.detach() for one in socket.socketpair())]
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)      # our address, but alone there
    udp.bind(split(listen))
    elsewhere = socket.create_server(("127.0.0.1", 0), reuse_port=True)
    connected = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    connected.bind(("127.0.0.1", 0))
    connected.connect(("127.0.0.1", 9))
    odd = [*ends, elsewhere.detach(), connected.detach()]
    udp.close()
    strange = ["a b", "-", "udp-127.0.0.1-53", "x" * 255, "\x7f", "é"]
    inodes = {os.fstat(descriptor).st_ino for descriptor in odd}
    unit = start([nameserver().address], listen=[listen], store=list(zip(strange, odd, strict=True)))
    ask(listen)
    held = {one.stat().st_ino for one in Path(f"/proc/{unit.manager.main}/fd").iterdir()}
    assert not inodes & held
    wait_for("ours only", lambda: set(names(listen, 1)) <= set(unit.manager.stored()))


def test_unit_file(tmp_path: Path) -> None:
    """The one in deploy/ is what `ns7 sample-config systemd` prints, and systemd finds nothing wrong with it."""
    printed = run_command("sample-config", "systemd").stdout
    assert printed == (ROOT / "deploy" / "ns7.service").read_text()
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        missing("systemd-analyze (systemd)")
    unit = tmp_path / "ns7.service"
    unit.write_text(printed.replace("/usr/bin/ns7", "/bin/true"))
    done = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60,
                          check=False)
    assert (done.returncode, done.stderr) == (0, "")
