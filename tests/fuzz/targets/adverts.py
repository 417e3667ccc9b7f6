"""Whatever comes as an advert, as a director's status, as an answer to a probe.

A valid one is what its bytes say, all else is rejected.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address

from failover import advert, probe, status

SOURCE, GROUP, VIP = IPv4Address("192.0.2.87"), IPv4Address("224.0.0.18"), IPv4Address("192.0.2.90")
SOURCE6, GROUP6, VIP6 = IPv6Address("fe80::87"), IPv6Address("ff02::12"), IPv6Address("fe80::90")
RULES = {version: advert.Rules(7, 0.3, frozenset([vip]), frozenset(), frozenset())
         for version, vip in ((4, VIP), (6, VIP6))}
KEY = b"fuzz" * 8


def message(source: advert.Address, group: advert.Address, vip: advert.Address) -> bytes:
    body = b"\x31\x07\x64\x01\0\x1e\0\0" + vip.packed
    total = advert.checksum(advert.pseudo_header(source, group, len(body)) + body)
    return body[:6] + total.to_bytes(2, "big") + body[8:]


GOOD = message(SOURCE, GROUP, VIP)
HEADER = b"\x45\xc0\0\x20\0\0\0\0\xff\x70\0\0" + SOURCE.packed + GROUP.packed
STATUS = b'{"node": "n", "session": "s", "number": 1, "heard": {"fuzz": 0}, "facts": {}, "piece": ["l", 0, 1, "t"]}'
SEEDS = (b"4" + HEADER + GOOD, b"6" + message(SOURCE6, GROUP6, VIP6), b"s" + STATUS, b"4" + HEADER, b"6", b"s[]", b"x",
         b"a" + bytes(12) + b"\x08\x06\0\1\x08\0\6\4\0\2" + bytes(20), b"n\x88" + bytes(23) + b"\2\1" + bytes(6))


def check(data: bytes) -> None:
    kind, rest = data[:1], data[1:]
    for told, at in ((probe.read_answer(rest), 28), (probe.read_advertisement(rest), 8)):
        assert told is None or (rest[at:].startswith(told[0].packed) and len(told[1]) == 17)
    with contextlib.suppress(advert.Rejected):
        if kind == b"4":
            heard = advert.read4(rest, RULES[4])
            assert rest[8] == 255 and len(rest) == int.from_bytes(rest[2:4], "big")
            assert heard.priority == rest[-10] and rest[-4:] == VIP.packed
        else:
            heard = advert.read6(rest, SOURCE6, GROUP6, 255, RULES[6])
            assert heard.priority == rest[2] and rest[8:] == VIP6.packed
        assert 0.03 <= heard.interval <= 3 and 0 <= heard.priority <= 255
    for datagram in (rest, hmac.digest(KEY, rest, hashlib.sha256) + rest):
        with contextlib.suppress(status.Rejected):
            assert status.Exchange(KEY, "here", "fuzz").read(datagram) is None, "it answers nothing of ours"


@contextlib.contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    yield check
