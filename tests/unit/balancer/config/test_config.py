"""Loading: places of keys, all mistakes at once, relations, overrides, sample, arbitrary bytes."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balancer.config import load
from balancer.config.positions import find_positions
from balancer.config.sample import sample_text
from balancer.config.values import format_duration, format_size, parse_duration, parse_prefix, parse_size
from balancer.errors import ConfigError

GOOD = """[[service]]
name = "a"
listen = ["127.0.0.1:53"]
[[service.server]]
name = "s1"
address = "127.0.0.2:53"
[[service.server]]
name = "s2"
address = "127.0.0.3:53"
"""


def write(tmp_path: Path, text: str | bytes) -> Path:
    file = tmp_path / "c.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def mistakes(tmp_path: Path, text: str | bytes, node: str | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text), node)
    return [str(p).removeprefix(str(tmp_path / "c.toml") + ":") for p in caught.value.problems]


def paths(value: object, at: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    found = {at} if at else set()
    items = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, item in items:
        found |= paths(item, (*at, key))
    return found


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        'a.b."c.d" = 1\r\n[x.\'y z\']\r\nk = """\r\n[no]\r\n""""\r\n',
        "[[a]]\n[[a.b]]\nx=1\n[[a.b]]\n[a.b.c]\ny=2\n[[a]]\n[a.b]\nz=3\n",
        "t = { a.b = [1, [2, {c = '}'}], ], d = {} } # [x]\nd = 1979-05-27 07:32:00\n",
        's = """a\\""" # x = 1\n"""""\nl = \'\'\'b\'\'\'\'\'\n"\\u0041" = [ # c ]\n "]",\n]\n"" = 2\n',
    ],
)
def test_positions_know_every_path(text: str) -> None:
    assert set(find_positions(text)) == paths(tomllib.loads(text))


def test_six_mistakes_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("[[service.server]]", 'udp_timeout = "1ms"\nx = 1\n[[service.server]]', 1)
    text = (
        text.replace('"s2"', '"S1"').replace("127.0.0.3", "127.0.0.1")
        + "wieght = 3\n[process]\nworkers = true\n"
    )
    assert [(m.split(":")[0], m.split(": ")[1]) for m in mistakes(tmp_path, text)] == [
        ("4", "service[0].udp_timeout"),
        ("5", "service[0].x"),
        ("10", "service[0].server[1].name"),
        ("11", "service[0].server[1].address"),
        ("12", "service[0].server[1].wieght"),
        ("14", "process.workers"),
    ]
    assert '12:1: service[0].server[1].wieght: unknown key (did you mean "weight"?) (got 3)' in mistakes(
        tmp_path, text
    )


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ('"s2"', '"s1"', "service[0].server[1].name"),
        ("127.0.0.3", "127.0.0.2", "service[0].server[1].address"),
        ("127.0.0.3", "127.0.0.1", "service[0].server[1].address"),
        ('.3:53"', '.3:53"\nsource = "::1"', "service[0].server[1].source"),
        ('1:53"]', '1:53", "127.0.0.1:53"]', "service[0].listen[1]"),
        ("[[service]]", GOOD + "[[service]]", "service[1].name"),
        ("[[service]]", GOOD + "[[service]]", "service[1].listen[0]"),
    ],
)
def test_relations(tmp_path: Path, old: str, new: str, path: str) -> None:
    assert any(f": {path}: " in m for m in mistakes(tmp_path, GOOD.replace(old, new, 1)))


def test_number_of_servers(tmp_path: Path) -> None:
    server = '[[service.server]]\nname="s{0}"\naddress="127.0.1.1:{0}"\n'
    head = GOOD[: GOOD.index("[[service.server]]")]
    many = "".join(server.format(n) for n in range(1, 257))
    assert len(load(write(tmp_path, head + many)).services[0].servers) == 256
    assert "at most 256" in mistakes(tmp_path, head + many + server.format(257))[0]
    assert "service[0].server: is missing" in mistakes(tmp_path, head)[0]


def test_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NS7_NODE", raising=False)
    text = GOOD + "[process]\nworkers = 2\ninflight_max = 64\n[nodes.A.process]\nworkers = 3\n[nodes.b]\n"
    config = load(write(tmp_path, text), "a")
    assert (config.process.workers, config.process.inflight_max, config.node) == (3, 64, "a")
    monkeypatch.setenv("NS7_NODE", "b")
    assert load(write(tmp_path, text)).process.workers == 2
    assert "known: a, b" in mistakes(tmp_path, text, "c")[0]
    monkeypatch.delenv("NS7_NODE")
    assert "this host" in mistakes(tmp_path, text)[0]
    bad = mistakes(tmp_path, text.replace("= 3", "= 99"), "b")
    assert len(bad) == 1 and bad[0].startswith("14:1: nodes.A.process.workers: ")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"a = 1\n\xff", "UTF-8"),
        (b"#" * (4 << 20) + b"#", "larger"),
        (b"a = 1\nb = = 2\n", "2:5: is not TOML"),
        (b"a = " + b"[" * 9000 + b"]" * 9000, "nested"),
        (b"a = " + b"9" * 5000, "TOML"),
        (b"process.workers = 0x" + b"f" * 5000, "huge"),
    ],
)
def test_bad_files(tmp_path: Path, data: bytes, word: str) -> None:
    assert word in " ".join(mistakes(tmp_path, data))


def test_unreadable(tmp_path: Path) -> None:
    for file in (tmp_path, tmp_path / "none", "a\0b"):
        with pytest.raises(ConfigError, match="cannot be read"):
            load(file)


def test_values() -> None:
    for text in ("250ms", "2s", "1m", "0.5ms", "36h"):
        assert parse_duration(format_duration(parse_duration(text))) == parse_duration(text)
    for text in ("64KiB", "16MiB", "1GiB", "1000B"):
        assert format_size(parse_size(text)) == text
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/24"):
        parse_prefix("10.0.0.1/24")


def test_sample(tmp_path: Path) -> None:
    plain = load(write(tmp_path, sample_text()))
    full = load(write(tmp_path, re.sub(r"(?m)^#(?=[a-z\[])", "", sample_text())), "ns7c0")
    assert full.process == plain.process and full.services[0].servers[0].source == "192.0.2.90"


def test_import_is_cheap() -> None:
    code = "import balancer.config, sys; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=300),
        st.tuples(st.integers(0, len(GOOD)), st.binary(max_size=6)).map(
            lambda cut: GOOD.encode()[: cut[0]] + cut[1] + GOOD.encode()[cut[0] :]
        ),
    )
)
def test_only_config_errors(tmp_path: Path, data: bytes) -> None:
    try:
        load(write(tmp_path, data))
    except ConfigError as error:
        assert error.problems and str(error)
