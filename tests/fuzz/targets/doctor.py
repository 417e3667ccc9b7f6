"""Whatever a name server answers is a time or nothing; any named.conf lets named take our address, or does not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from balancer.component import Finding, Held
from balancer.config.values import Endpoint
from balancer.doctor import clock
from balancer.doctor.named import Conf, Named, judge_named
from balancer.namedconf import ConfError
from tests.unit.balancer.doctor.test_judgement import CONFS

NOW, IDENT = 1_800_000_000, 7
ASKED = clock.question(IDENT, b"key", NOW)
ANSWER = ASKED[:2] + b"\x80\x09" + ASKED[4:]
SEEDS = (ANSWER, ASKED, b"", *(f"options {{ {text} }}; acl ours {{ 192.0.2.90; }};".encode() for text, _ in CONFS))
HELD = (Held("192.0.2.88", 24, "eth0", True), Held("2001:db8::88", 64, "eth0", True))
WANTED = tuple(("udp", Endpoint(host, 53)) for host in ("192.0.2.90", "2001:db8::90", "0.0.0.0"))


def check(data: bytes) -> None:
    made = clock.read(data, IDENT, 10)
    assert made is None or 0 < made < 1 << 48
    with contextlib.suppress(ConfError):
        text = data.decode("utf-8", "replace")
        found = list(judge_named(Named(WANTED, (Conf(1, text, "/x"),), (), HELD, frozenset())))
        assert len(found) <= len(WANTED) and all(isinstance(each, Finding) for each in found)


@contextlib.contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    yield check
