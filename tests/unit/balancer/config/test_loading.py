"""Loading: defaults, every mistake at once with its place, and what is wrong with files."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import ValidationError

from balancer.config import Config, ConfigError, Endpoint, load
from balancer.errors import Ns7Error
from tests.unit.balancer.config.files import PLAIN, load_data, load_text, only_problem, problems_of

SIX = """\
[[service]]
name = "dns"
listen = [
  "127.0.0.1:5300",
  "127.0.0:53",
]
udp_timeout = "5 sec"
[[service.server]]
name = "a"
address = "127.0.0.1:70000"
[[service.server]]
name = "b"
address = "192.0.2.1:53"
weightt = 3
[service.admit]
transfer = ["10.0.0.1/8"]
[process]
workers = "two"
"""


def test_defaults() -> None:
    config = load_text(PLAIN)
    assert isinstance(config, Config)
    service = config.services[0]
    assert (service.name, service.listen) == ("dns", (Endpoint("127.0.0.1", 5300),))
    assert (service.scheduler, service.udp_timeout) == ("wlc", 2.0)
    assert service.admit.query == (ip_network("0.0.0.0/0"), ip_network("::/0"))
    assert (service.admit.transfer, service.admit.update, service.admit.notify) == ((), (), ())
    server = service.servers[0]
    assert (server.name, server.address, server.weight) == ("a", Endpoint("192.0.2.1", 53), 1)
    assert (server.source, server.sockets) == (None, 0)
    assert (config.process.workers, config.process.udp_buffer, config.process.inflight_max) == (
        0,
        16 << 20,
        65536,
    )
    assert config.admin.socket == "/run/ns7/control.sock"
    assert config.roles == ("balancer",), "the others have no section"


def test_frozen_and_comparable() -> None:
    """Reload compares the old with the new."""
    config = load_text(PLAIN)
    assert config == load_text(PLAIN)
    assert config != load_text(PLAIN.replace("5300", "5301"))
    with pytest.raises(ValidationError):
        config.process.workers = 3


def test_six_mistakes_at_once() -> None:
    found = [(problem.line, problem.column, problem.path) for problem in problems_of(SIX)]
    assert found == [
        (5, 3, "service[0].listen[1]"),
        (7, 1, "service[0].udp_timeout"),
        (10, 1, "service[0].server[0].address"),
        (14, 1, "service[0].server[1].weightt"),
        (16, 13, "service[0].admit.transfer[0]"),
        (18, 1, "process.workers"),
    ]


def test_rendering(tmp_path: Path) -> None:
    path = tmp_path / "ns7.toml"
    path.write_text(SIX)
    with pytest.raises(ConfigError) as caught:
        load(path)
    lines = str(caught.value).split("\n")
    assert len(lines) == 6
    assert (
        lines[3] == f'{path}:14:1: service[0].server[1].weightt: unknown key (did you mean "weight"?) (got 3)'
    )
    assert lines[5] == f'{path}:18:1: process.workers: must be a whole number from 0 to 64 (got "two")'
    assert '"10.0.0.0/8"' in lines[4]
    assert isinstance(caught.value, Ns7Error)


def test_mistakes_in_one_value_and_between_two_are_told_together() -> None:
    text = PLAIN + 'weight = -1\nsource = "::1"\n'
    assert [problem.path.rpartition(".")[2] for problem in problems_of(text)] == ["weight", "source"]


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ('name = "dns"\n', "", "service[0].name"),
        ('address = "192.0.2.1:53"\n', "", "service[0].server[0].address"),
        ('listen = ["127.0.0.1:5300"]', "listen = []", "service[0].listen"),
        ('listen = ["127.0.0.1:5300"]', 'listen = "127.0.0.1:5300"', "service[0].listen"),
        ('listen = ["127.0.0.1:5300"]', "listen = [53]", "service[0].listen[0]"),
        ("[[service.server]]", "[service.server]", "service[0].server"),
        ('name = "dns"', 'name = "dns"\nscheduler = "wlcc"', "service[0].scheduler"),
        ('name = "dns"', 'name = "dns"\nscheduler = ["wlc"]', "service[0].scheduler"),
        ('name = "dns"', 'name = "dns"\nudp_timeout = 2', "service[0].udp_timeout"),
        ('name = "dns"', 'name = "dns"\nudp_timeout = "49ms"', "service[0].udp_timeout"),
        ('name = "dns"', 'name = "dns"\nadmit = []', "service[0].admit"),
        ('name = "dns"', 'name = "dns"\nprimari = "a"', "service[0].primari"),
        ('name = "dns"', 'name = "dns"\nprimary = "b"', "service[0].primary"),
        ('name = "a"', 'name = "a"\nweight = true', "service[0].server[0].weight"),
        ('name = "a"', 'name = "a"\nweight = 65536', "service[0].server[0].weight"),
        ('name = "a"', 'name = "a"\nsockets = 65', "service[0].server[0].sockets"),
        ('name = "a"', 'name = "a"\nsource = "0.0.0.0"', "service[0].server[0].source"),
    ],
)
def test_single_mistakes(old: str, new: str, path: str) -> None:
    assert old in PLAIN
    problem = only_problem(PLAIN.replace(old, new))
    assert problem.path == path
    assert problem.line > 0


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ("[process]\nworkers = 65", "process.workers"),
        ('[process]\nudp_buffer = "63KiB"', "process.udp_buffer"),
        ("[process]\nudp_buffer = 16777216", "process.udp_buffer"),
        ("[process]\ninflight_max = 63", "process.inflight_max"),
        ("[process]\ninflight_max = 64.0", "process.inflight_max"),
        ('[admin]\nsocket = "control.sock"', "admin.socket"),
        ("[nothing]\nx = 1", "nothing"),
        ('roles = ["balancer"]', "service[0].server[0].roles"),
        ('["odd key"]', '"odd key"'),
    ],
)
def test_mistakes_in_sections(section: str, path: str) -> None:
    problem = only_problem(PLAIN + section)
    assert (problem.path, problem.line > 6) == (path, True)


def test_number_of_servers() -> None:
    def text(count: int) -> str:
        head = PLAIN.partition("[[service.server]]")[0]
        return head + "".join(
            f'[[service.server]]\nname = "s{n}"\naddress = "10.0.{n >> 8}.{n & 255}:53"\n'
            for n in range(1, count + 1)
        )

    assert len(load_text(text(256)).services[0].servers) == 256
    assert "256" in only_problem(text(257)).message
    assert "[[service.server]]" in only_problem(text(0)).message


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "service = []\n", "[process]\n"])
def test_a_service_is_needed(text: str) -> None:
    assert len(problems_of(text)) == 1


@pytest.mark.parametrize(
    ("data", "line", "column"),
    [
        (b"[[service]\n", 1, 10),
        (b"a = 1\nb = \n", 2, 5),
        (b"a = 1\r\na = 2\r\n", 2, 6),
        (b'a = "', 1, 6),
        (b"a = [\n1,", 2, 3),
        (b'a = 1\nb = "\xff"\n', 2, 6),
        (b"\xfe\xff", 1, 1),
    ],
)
def test_not_toml(data: bytes, line: int, column: int) -> None:
    with pytest.raises(ConfigError) as caught:
        load_data(data)
    (problem,) = caught.value.problems
    assert (problem.line, problem.column, problem.path) == (line, column, "")


def test_byte_order_mark_and_line_ends_of_windows() -> None:
    assert load_data(b"\xef\xbb\xbf" + PLAIN.replace("\n", "\r\n").encode()) == load_text(PLAIN)


def test_too_deep_and_too_long() -> None:
    assert only_problem("a = " + "[" * 5000 + "]" * 5000)
    assert only_problem("a = " + "9" * 5000)
    assert problems_of("a = 0x" + "f" * 5000)
    with pytest.raises(ConfigError, match="4 MiB"):
        load_data(b"#" * ((4 << 20) + 1))
    load_data(PLAIN.encode() + b"#" * ((4 << 20) - len(PLAIN)))


@pytest.mark.parametrize("name", ["absent.toml", ".", "a\0b", "x" * 300])
def test_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load(f"{tmp_path}/{name}")
    assert "\n" not in str(caught.value)


def test_messages_do_not_steer_the_terminal() -> None:
    text = PLAIN + '"\\u001b[31m" = "\\u001b[0m\\u009b"\n'
    assert only_problem(text).path.isprintable()
    assert str(only_problem(text)).isprintable()
