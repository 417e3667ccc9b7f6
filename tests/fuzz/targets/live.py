"""Whatever the file of the live changes, or another director, holds: live changes that survive every way back, whose
merge does not depend on the order, and that a right configuration stays right under; or ValueError."""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from balancer.config import load
from balancer.process.live import Change, Live
from balancer.process.steering import overlay

FILE = """[[service]]
name = "dns"
listen = ["127.0.0.1:5300"]
primary = "a"
[[service.server]]
name = "A"
address = "192.0.2.1:53"
[[service.server]]
name = "b"
address = "192.0.2.2:53"
weight = 3
"""
CHANGES = [
    Change("dns", "a", "weight", 5, "root", 1.0, "n1"),
    Change("dns", "b", "state", "drained", "root", 2.0, "n1", False, True),
    Change("dns", "c", "server", {"name": "c", "address": "192.0.2.3:53", "weight": 2}, "root", 3.0, "n2"),
    Change("dns", "b", "server", None, "root", 4.0, "n2"),
    Change("dns", "a", "state", "sideways", "root", 5.0, "n2"),
    Change("dns", "b", "weight", None, "root", 6.0, "n2", True),
]
SEEDS = (
    *(Live(CHANGES[:count]).encode() for count in range(len(CHANGES) + 1)),
    json.dumps({"format": 1, "changes": [], "settled": [[["dns", "a", "weight"], 1e999]]}).encode(),
    Live([Change("dns", "c", "server", {"address": "192.0.2.3:53"}, "root", 3.0, "n2"), CHANGES[0]]).encode(),
    b"{}", b"null", b'{"format": 2, "changes": []}', b'{"format": 1, "changes": 7}', b"[" * 3000, b"",
)


@contextlib.contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    with tempfile.TemporaryDirectory(prefix="ns7-fuzz-") as folder:
        path = Path(folder) / "ns7.toml"
        path.write_text(FILE)
        config = load(path)
    document, ours = copy.deepcopy(config.document), Live(CHANGES)

    def check(data: bytes) -> None:
        try:
            found = Live.load(json.loads(data))
        except (ValueError, RecursionError):
            return
        assert Live.load(json.loads(found.encode())).export() == found.export()
        assert found.merge(ours).export() == ours.merge(found).export()
        made = overlay(config, found)
        assert config.document == document
        assert 1 <= len(made.config.services[0].servers) <= 2 + len(found.changes)

    yield check
