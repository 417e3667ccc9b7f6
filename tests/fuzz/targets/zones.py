"""Whatever a named.conf or a manifest says, its zones are a list of names, or it is a ValueError."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from health.zones import from_manifest, from_named_conf

SEEDS = (
    b'zone "a.example" { type primary; file "a"; };', b'view v { zone a.b IN { type slave; }; };', b'include "x"; }}}{',
    b'/* zone "a" { */ // x\n# y\nzone "a" { type master; };', b'{"zones": [["", "a.example", "p", 1, 2]]}\nsignature',
)


def check(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for parse in (from_manifest, lambda text: from_named_conf(text, lambda name: 'zone "inner" { type primary; };')):
        try:
            found = parse(text)
        except ValueError:
            continue
        assert len(found) == len(set(found))
        assert all(name and name.isascii() and name == name.lower() and " " not in name for name in found)


@contextlib.contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    yield check
