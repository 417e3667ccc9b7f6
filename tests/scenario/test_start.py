"""What cannot be served is told in one clear line, exit code 2."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.conftest import StartBalancer, StartServer
from tests.helpers.client import ask
from tests.helpers.config import Settings
from tests.helpers.daemon import Balancer, run_command
from tests.helpers.need import missing, require_program, require_root
from tests.helpers.ports import address, free_address, split


def refused(folder: Path, text: str, prefix: list[str] | None = None) -> str:
    """`ns7 run` must end with exit code 2 and a single line; that line."""
    config = folder / "refused.toml"
    config.write_text(text)
    done = run_command("run", "-c", str(config), prefix=prefix or [])
    assert done.returncode == 2, done
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def plain(folder: Path, listen: str | None = None) -> str:
    """A configuration nothing is wrong with."""
    return Settings([free_address()], [listen or free_address()]).text(folder / "other.sock")


def test_unknown_key(tmp_path: Path) -> None:
    line = refused(tmp_path, plain(tmp_path).replace("udp_timeout", "udp_timeuot"))
    assert "udp_timeuot" in line


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('udp_timeout = "2s"', 'udp_timeout = "two seconds"'),
        ('udp_timeout = "2s"', 'udp_timeout = "1ms"'),
        ("workers = 1", "workers = 65"),
        ('name = "s1"', 'name = "s1"\nweight = 65536'),
        ('name = "s1"', 'name = "s1"\nweight = -1'),
    ],
)
def test_value_out_of_range(tmp_path: Path, old: str, new: str) -> None:
    text = plain(tmp_path)
    assert old in text
    line = refused(tmp_path, text.replace(old, new))
    assert new.split("\n")[-1].split(" = ")[1].strip('"') in line, "the value is told"


def test_not_toml(tmp_path: Path) -> None:
    assert "refused.toml" in refused(tmp_path, "[[service]\n")


def test_no_such_file(tmp_path: Path) -> None:
    done = run_command("run", "-c", str(tmp_path / "absent.toml"))
    assert done.returncode == 2
    assert "absent.toml" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_port_taken(tmp_path: Path, host: str) -> None:
    listen = free_address(host)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(split(listen))
        assert listen in refused(tmp_path, plain(tmp_path, listen))


def test_port_taken_by_another_ns7(tmp_path: Path, start: StartBalancer, nameserver: StartServer) -> None:
    """Both would set SO_REUSEPORT and the kernel would let them: half of the queries would go astray."""
    balancer = start([nameserver().address])
    assert balancer.address in refused(tmp_path, plain(tmp_path, balancer.address))
    ask(balancer.address)


def test_no_right_to_a_privileged_port(tmp_path: Path) -> None:
    require_root("dropping a capability")
    setpriv = require_program("setpriv", "util-linux")
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 53:
        missing("port 53 needs no right here (net.ipv4.ip_unprivileged_port_start)")
    prefix = [setpriv, "--bounding-set=-net_bind_service", "--inh-caps=-all"]
    listen = address("127.0.0.77", 53)
    assert listen in refused(tmp_path, plain(tmp_path, listen), prefix)


def test_without_privileges(tmp_path: Path, start: StartBalancer, nameserver: StartServer) -> None:
    """No capability is needed above port 1023; only the buffers stay smaller."""
    require_root("dropping capabilities")
    setpriv = require_program("setpriv", "util-linux")
    balancer = start([nameserver().address], prefix=[setpriv, "--bounding-set=-all", "--inh-caps=-all"])
    ask(balancer.address)


def test_control_socket_left_by_a_killed_ns7(start: StartBalancer, nameserver: StartServer) -> None:
    """A stale socket file is no reason not to start."""
    server = nameserver()
    first = start([server.address])
    first.kill()
    assert first.control.exists()
    with Balancer(first.folder, [server.address], first.settings.listen) as again:
        ask(again.address)
        assert again.status()["pid"] == again.pid
    assert not os.path.lexists(first.control), "the control socket is gone after the end"


def test_check(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(plain(tmp_path))
    bad.write_text(plain(tmp_path).replace("udp_timeout", "udp_timeuot"))
    assert run_command("check", "-c", str(good)).returncode == 0
    done = run_command("check", "-c", str(bad))
    assert done.returncode == 2
    assert "udp_timeuot" in done.stderr + done.stdout


def test_control_commands_without_ns7(tmp_path: Path) -> None:
    for verb in ("status", "reload", "stop"):
        done = run_command(verb, "--socket", str(tmp_path / "none.sock"))
        assert done.returncode != 0
        assert "none.sock" in done.stderr
        assert "Traceback" not in done.stderr
