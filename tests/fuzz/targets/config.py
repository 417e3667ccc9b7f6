"""Whatever a configuration file holds, it loads or is refused with printable problems, and each key's place is true."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

from balancer.config import ConfigError
from balancer.config.positions import Path, find_positions
from tests.unit.balancer.config.files import PLAIN, load_data
from tests.unit.balancer.config.test_positions import ODD

SEEDS = (
    PLAIN.encode(), ODD.encode(), b"", b"\xef\xbb\xbf", b"a = 1\r\n[b]\r\nc = 2\r\n", b"service = [[[]]]\n",
    PLAIN.encode() + b'[process]\nworkers = 2\n[admin]\nsocket = "/run/x"\n[nodes.one]\nroles = ["balancer"]\n',
    PLAIN.replace("[[service]]", '[[service]]\nadmit = {query = ["::/0"], transfer = []}').encode(),
    b"x = " + b"[" * 2000,
)


def paths_of(value: Any, path: Path = ()) -> Iterator[Path]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in pairs:
        yield (*path, key)
        yield from paths_of(child, (*path, key))


def check(data: bytes) -> None:
    try:
        load_data(data, "one")
    except ConfigError as error:
        assert error.problems
        for problem in error.problems:
            assert problem.message
            assert str(problem).isprintable()
    with contextlib.suppress(ValueError, RecursionError):
        text = data.decode()
        document = tomllib.loads(text)
        found = find_positions(text)
        lines = text.replace("\r\n", "\n").split("\n")
        assert set(found) == set(paths_of(document))
        for path, (line, column) in found.items():
            rest = lines[line - 1][column - 1:]
            key = path[-1]
            assert isinstance(key, int) or rest.startswith((key, '"', "'")), f"{path} at {line}:{column}: {rest}"


@contextlib.contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    yield check
