"""Whatever arrives on the puller's port, it is refused for a reason that is counted, or was signed with the key."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import dns.message

from sync import notify
from sync.notify import REASONS, Guard, Refused

TEXT = 'key "sync" { algorithm hmac-sha256; secret "c3luYyBzY2VuYXJpb3Mgb25seSwgbm90IGEgc2VjcmV0IQ=="; };'
KEY, OTHER = notify.load_key(TEXT), notify.load_key(TEXT.replace("sha256", "sha512"))
SIGNED = (notify.notify(7, KEY).to_wire(), notify.query(KEY).to_wire())
SEEDS = (*SIGNED, notify.notify(7, OTHER).to_wire(), dns.message.make_query(notify.NAME, "SOA").to_wire(), b"",
         bytes(12))
MEANT = tuple((dns.message.from_wire(wire, keyring=KEY).mac, generation)
              for wire, generation in zip(SIGNED, (7, None), strict=True))
STATUS = {"generation": 1, "state": "current", "reason": "", "failed": 0}


def check(data: bytes) -> None:
    guard = Guard(KEY)
    try:
        heard = guard.hear(data, 0.0)
    except Refused as error:
        assert str(error) in REASONS and guard.refused[str(error)] == 1
        return
    # Not covered by TSIG and without a meaning: the id (RFC 8945 §4.3.2 signs the original one), the record's own TTL.
    assert (heard.message.mac, heard.generation) in MEANT
    assert len(notify.reply(heard, STATUS)) < 600
    with contextlib.suppress(Refused):
        guard.hear(data, 1.0)
        raise AssertionError("obeyed twice")


@contextlib.contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    yield check
