"""Whatever a signed manifest says, it is refused or every path in it lies below the tree and every name is one."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Callable, Iterator

from sync.manifest import CONF, ManifestError, decode, encode, parse
from sync.plan import changes, doubts, silent
from tests.unit.sync.makers import SECRET, manifest

OLD = manifest(1, {"a.example": (1, 20), "b.example": (1, 20)})
GOOD = tuple(encode(each, SECRET) for each in (
    OLD, manifest(2, {"a.example": (2, 20), "c.example": (1, -1)}, forced=2), manifest(3, {})))
SEEDS = (*GOOD, b"", b"{}\n", b"[]", encode(OLD, SECRET).replace(b"zones/a.example", b"../../a.example"),
         encode(OLD, SECRET).replace(b'"format":1', b'"format":2'))


def check(data: bytes) -> None:
    with contextlib.suppress(ManifestError):
        assert decode(data, SECRET) in [parse(seed) for seed in GOOD], "signed by nobody"
    try:
        found = parse(data)
    except ManifestError as error:
        assert str(error).isprintable()
        return
    assert CONF in found.files and found.generation > 0
    for path in found.files:
        assert posixpath.normpath(f"/tree/{path}") == f"/tree/{path}" and not path.startswith("-")
        assert path.isascii() and path.isprintable() and " " not in path
    for view, name in found.zones:
        assert not set('"\\{};\n ') & set(view + name)
    assert parse(encode(found, SECRET)) == found
    step = changes(OLD, found)
    assert set(step.load) | {key for key in found.zones if key in OLD.zones} == set(found.zones)
    doubts(OLD, found, 50)
    silent(OLD, found)


@contextlib.contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    yield check
