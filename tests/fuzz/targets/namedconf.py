"""Whatever named-checkconf prints, it is refused or what is published is a configuration of the chosen zones alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from balancer.namedconf import ConfError, parse, render, word
from sync.namedconf import count_records, layout, read_key
from tests.unit.sync.test_namedconf import CONF, VIEWS

SEEDS = (CONF.encode(), VIEWS.encode(), b"", b'zone "a" { type primary; file "a"; };', b'key "k" { secret "x"; };',
         b'zone "../../x" { type master; file "/etc/passwd"; };', b"@ SOA ns h ( 1 2 3 ; x\n4 5 )\n a TXT \"(\" \n",
         b'view "v" { zone "a" { type primary; file "a"; }; };')


def check(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    assert 0 <= count_records(text) <= len(text)
    with contextlib.suppress(ConfError):
        read_key(text)
    try:
        statements = parse(text)
    except ConfError:
        return
    assert parse(render(statements)) == statements
    found = layout(text, (".",), "192.0.2.88")
    for zone in found.zones:
        assert ".." not in zone.path.split("/") and zone.path.startswith("zones/")
    published = parse(found.conf([(zone.view, zone.name) for zone in found.zones]))
    assert {word(each, 0) for each in published} <= {"acl", "primaries", "masters", "remote-servers", "zone", "view"}
    assert not [each for each in parse(found.conf([])) if word(each, 0) in ("zone", "view")]


@contextlib.contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    yield check
