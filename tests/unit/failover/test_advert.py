"""The strict reader against what scapy builds, and everything that is not quite it."""

from __future__ import annotations

import os
import subprocess
import sys
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from failover import frames
from failover.advert import REASONS, Rejected, Rules, checksum, pseudo_header, read4, read6
from failover.frames import GROUP4, GROUP6, parse
from failover.probe import read_advertisement, read_answer
from failover.vrrp import Heard

SOURCE4, SOURCE6 = IPv4Address("192.0.2.87"), IPv6Address("fe80::87")
VIP4, VIP6 = parse(["192.0.2.90"]), [frames.link_local(7), IPv6Address("2001:db8::90")]
RULES4 = Rules(7, 0.3, frozenset(VIP4), frozenset(parse(["192.0.2.88"])), frozenset())
RULES6 = Rules(7, 0.3, frozenset(VIP6), frozenset(), frozenset())


def datagram(message: bytes, source: str = "192.0.2.87", to: str = str(GROUP4), ttl: int = 255) -> bytes:
    header = bytearray(bytes(IP(src=source, dst=to, ttl=ttl, proto=112, len=20 + len(message))))
    return bytes(header) + message


def made(vrid: int = 7, priority: int = 100, interval: float = 0.3, pseudo: bool = True) -> bytes:
    return frames.advert(SOURCE4, GROUP4, vrid, priority, interval, VIP4, pseudo)


def reason(packet: bytes, rules: Rules = RULES4) -> str:
    with pytest.raises(Rejected) as rejected:
        read4(packet, rules)
    assert rejected.value.reason in REASONS
    return rejected.value.reason


@pytest.mark.parametrize("pseudo", [True, False])
def test_both_checksums_are_understood(pseudo: bool) -> None:
    assert read4(datagram(made(pseudo=pseudo)), RULES4) == Heard(100, 0.3, "192.0.2.87")


def test_they_differ_on_the_wire() -> None:
    pseudo, plain = made(), made(pseudo=False)
    assert pseudo[:6] == plain[:6] == bytes.fromhex("31076401001e") and pseudo[6:8] != plain[6:8]
    assert checksum(plain) == 0 and checksum(pseudo_header(SOURCE4, GROUP4, len(pseudo)) + pseudo) == 0


def test_ipv6() -> None:
    message = frames.advert(SOURCE6, GROUP6, 7, 254, 0.3, VIP6)
    assert read6(message, SOURCE6, GROUP6, 255, RULES6) == Heard(254, 0.3, "fe80::87")
    for at in range(len(message)):
        broken = message[:at] + bytes((message[at] ^ 1,)) + message[at + 1:]
        with pytest.raises(Rejected):
            read6(broken, SOURCE6, GROUP6, 255, RULES6)
    with pytest.raises(Rejected, match="ttl"):
        read6(message, SOURCE6, GROUP6, 64, RULES6)


def test_what_is_dropped() -> None:
    good = made()
    peers = Rules(7, 0.3, frozenset(VIP4), frozenset(), frozenset(parse(["192.0.2.66"])))
    listed = Rules(7, 0.3, frozenset(VIP4), frozenset(), frozenset([SOURCE4]))
    for expected, packet, rules in (
        ("short", b"", RULES4), ("short", datagram(good)[:-1], RULES4), ("short", datagram(good + b"\0"), RULES4),
        ("short", datagram(good[:3]), RULES4), ("short", datagram(good[:3] + b"\0" + good[4:]), RULES4),
        ("ttl", datagram(good, ttl=254), RULES4), ("sender", datagram(good, source="192.0.2.88"), RULES4),
        ("sender", datagram(good), peers), ("destination", datagram(good), listed),
        ("destination", datagram(good, to="192.0.2.88"), RULES4), ("version", datagram(b"\x21" + good[1:]), RULES4),
        ("type", datagram(b"\x32" + good[1:]), RULES4), ("checksum", datagram(good[:6] + b"\0\0" + good[8:]), RULES4),
        ("vrid", datagram(made(vrid=8)), RULES4), ("interval", datagram(made(interval=0)), RULES4),
        ("interval", datagram(made(interval=40)), RULES4), ("interval", datagram(made(interval=0.02)), RULES4),
        ("addresses", datagram(frames.advert(SOURCE4, GROUP4, 7, 100, 0.3, parse(["192.0.2.91"]))), RULES4),
        ("addresses", datagram(frames.advert(SOURCE4, GROUP4, 7, 100, 0.3, [*VIP4, *VIP4])), RULES4),
    ):
        assert reason(packet, rules) == expected


def test_unicast() -> None:
    rules = Rules(7, 0.3, frozenset(VIP4), frozenset(), frozenset([SOURCE4]))
    message = frames.advert(SOURCE4, IPv4Address("192.0.2.88"), 7, 100, 0.3, VIP4)
    assert read4(datagram(message, to="192.0.2.88"), rules).priority == 100


@given(st.integers(0, 255), st.integers(3, 300), st.booleans())
def test_what_is_built_is_read(priority: int, hundredths: int, pseudo: bool) -> None:
    heard = read4(datagram(made(priority=priority, interval=hundredths / 100, pseudo=pseudo)), RULES4)
    assert heard == Heard(priority, hundredths / 100, "192.0.2.87")


def test_announcements() -> None:
    mac = "02:00:00:00:00:07"
    arp = Ether(frames.announcement(mac, VIP4[0]))
    assert (arp.src, arp.dst, arp[ARP].op, arp[ARP].psrc, arp[ARP].pdst, arp[ARP].hwsrc) == (
        mac, "ff:ff:ff:ff:ff:ff", 1, "192.0.2.90", "192.0.2.90", mac)
    advert = Ether(frames.announcement(mac, VIP6[1]))
    told = advert[ICMPv6ND_NA]
    assert (advert[IPv6].hlim, advert[IPv6].dst, told.tgt, told.O, told.S, told.R) == (
        255, "ff02::1", "2001:db8::90", 1, 0, 0)


def test_answers_to_a_probe() -> None:
    ours, theirs = "02:00:00:00:00:07", "02:00:00:00:00:08"
    asked = Ether(frames.probe(ours, VIP4[0]))
    assert (asked[ARP].psrc, asked[ARP].pdst) == ("0.0.0.0", "192.0.2.90")
    answer = bytes(Ether(src=theirs, dst=ours) / ARP(op=2, hwsrc=theirs, psrc="192.0.2.90", hwdst=ours, pdst="0.0.0.0"))
    assert read_answer(answer) == (VIP4[0], theirs)
    assert read_answer(bytes(asked)) is None
    for size in range(len(answer)):
        assert read_answer(answer[:size]) is None


def test_answers_to_a_probe_over_ipv6() -> None:
    asked, theirs = Ether(frames.probe("02:00:00:00:00:07", VIP6[1])), "02:00:00:00:00:08"
    assert (asked.dst, asked[IPv6].src, asked[IPv6].dst, asked[IPv6].hlim, asked[ICMPv6ND_NS].tgt) == (
        "33:33:ff:00:00:90", "::", "ff02::1:ff00:90", 255, "2001:db8::90")
    answer = bytes(ICMPv6ND_NA(tgt="2001:db8::90", S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=theirs))
    assert read_advertisement(answer) == (VIP6[1], theirs)
    assert read_advertisement(bytes(asked[ICMPv6ND_NS])) is None
    for size in range(len(answer)):
        assert read_advertisement(answer[:size]) is None


@pytest.mark.parametrize("home", [None, "/somewhere"])
def test_scapy_keeps_nothing_on_disk_and_nobody_else_is_told_so(home: str | None) -> None:
    """It takes a variable of the environment for that, which children would inherit."""
    env = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
    env |= {"XDG_CACHE_HOME": home} if home is not None else {}
    code = ("import os, failover.frames, scapy.main\n"
            "print(scapy.main.SCAPY_CACHE_FOLDER, os.environ.get('XDG_CACHE_HOME'))")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", str(home)]
