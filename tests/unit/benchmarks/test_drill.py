"""The drill without its hosts: what is told, the picture, the filter that finds the first answer."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import tomllib
from xml.etree import ElementTree

import pytest

from benchmarks.drill import telling
from benchmarks.drill.faults import FAULTS, server
from benchmarks.drill.picture import draw
from benchmarks.drill.site import CONFIG, DIRECTORS, NODES, SERVERS, VIP
from benchmarks.drill.trial import Outcome
from benchmarks.drill.watching import INSTRUCTION, SO_ATTACH_FILTER, Sample, Seen, answers_of
from benchmarks.oneshot.record import Record

SECOND = 1_000_000_000
SVG = "{http://www.w3.org/2000/svg}"
MAC = bytes.fromhex("02a1b2c3d4e5")


def outcomes() -> list[Outcome]:
    return [
        Outcome("", False, "nothing is broken", "", 100.0, 103.0, sent=3000),
        Outcome("server", False, "real server ns7c2 killed", "", 103.0, 108.0, 1.2, None, 0, 5000, ["one"]),
        Outcome("server", True, "real server ns7c2 back", "", 108.0, 112.0, 1.5, None, 0, 4000, ["two"]),
        Outcome("edit", False, "zone edited", "both serve it", 112.0, 115.0, 0.6, 0.7, 0, 3000),
        Outcome("director", False, "director <ns7c0> killed", "ns7c1 answers", 115.0, 120.0, 0.9, 1.5, 1500, 5000),
    ]


def test_the_picture() -> None:
    """Well-formed, whatever the names; every fault has its mark and its line, a mending ends the band."""
    qps = {("ns7c0", "ns7c1"): 900.0, ("ns7c0", "ns7c2"): 700.0}
    samples = [Sample(100 + number / 4, qps if number < 60 else {}) for number in range(80)]
    drawn = ElementTree.fromstring(draw(samples, SERVERS, DIRECTORS, [115.1, 115.2, 116.0],
                                        telling.spans(outcomes())))
    texts = [one.text for one in drawn.iter(f"{SVG}text")]
    assert any(text and text.startswith("director <ns7c0> killed: noticed after 0.90 s, ns7c1 answers after 1.50 s")
               for text in texts)
    kinds = [one.get("class") for one in drawn.iter()]
    assert (kinds.count("mark"), kinds.count("band"), kinds.count("badge"), kinds.count("lost")) == (3, 1, 6, 2)
    assert "2,000" in texts, "the scale ends at a round number above what is usual"


def test_what_is_promised() -> None:
    held = {goal.row: goal.met for goal in telling.bars(outcomes())}
    assert held == {
        "real server ns7c2 killed: lost": True, "real server ns7c2 killed: noticed": True,
        "real server ns7c2 killed: mails": True, "zone edited: both serve it": True,
        "director <ns7c0> killed: ns7c1 answers": False}


def test_a_line() -> None:
    assert telling.summary(outcomes()[1]) == "noticed after 1.20 s, 0 lost, 1 mail"
    failed = Outcome("tcp", False, "x", "", 1.0, missed=["event"])
    assert telling.summary(failed) == "noticed after -, 0 lost, 0 mails; MISSING: event"
    assert len(telling.outcomes_table(outcomes()).splitlines()) == 2 + len(outcomes())


def test_a_sign_is_of_its_host() -> None:
    sign = server("ns7c0", "ns7c2", "down", "degraded")
    seen = Seen(1.0, "ns7c0", "server", "ns7/ns7c2", "up", "down", "")
    assert sign.matches(seen)
    assert not any(sign.matches(seen._replace(**other)) for other in (      # type: ignore[arg-type]
        {"host": "ns7c1"}, {"after": "suspected"}, {"subject": "ns7/ns7c1"}, {"kind": "zone"}))


def test_the_faults_have_names_of_their_own() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert {fault.name for fault in FAULTS} >= {f"cut-{name}" for name in NODES}


def test_the_file_is_toml() -> None:
    document = tomllib.loads(CONFIG.format(keys="/keys"))
    assert document["failover"]["addresses"] == [VIP] and set(document["nodes"]) == set(NODES)


def frame(mac: bytes = MAC, source: str = VIP, protocol: int = socket.IPPROTO_UDP, port: int = 53) -> bytes:
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, protocol, 0, socket.inet_aton(source),
                     socket.inet_aton("192.0.2.1"))
    return bytes(6) + mac + b"\x08\x00" + ip + struct.pack("!HHHH", port, 40000, 20, 0) + bytes(12)


def test_the_filter() -> None:
    """Run by the kernel itself, over a pair of sockets."""
    code = answers_of(MAC)
    kept = ctypes.create_string_buffer(code)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER,
                        struct.pack("HP", len(code) // INSTRUCTION.size, ctypes.addressof(kept)))
        ours.setblocking(False)
        for wrong in (frame(mac=b"\2" * 6), frame(mac=MAC[:5] + b"\0"), frame(source="192.0.2.88"),
                      frame(protocol=socket.IPPROTO_TCP), frame(port=54), b"short"):
            with contextlib.suppress(OSError):
                theirs.send(wrong)
        theirs.send(frame())
        assert ours.recv(100) == frame()
        with pytest.raises(BlockingIOError):
            ours.recv(100)


def test_lost_within_a_time() -> None:
    record = Record()
    for number in range(10):
        record.send(number * SECOND)
        if number not in (3, 7):
            record.answer(number, number * SECOND + (3 * SECOND if number == 5 else 1), 0)
    assert record.lost(0, 20 * SECOND, 2 * SECOND) == [3 * SECOND, 5 * SECOND, 7 * SECOND]
    assert record.lost(3 * SECOND, 7 * SECOND, 2 * SECOND) == [3 * SECOND, 5 * SECOND]
    assert record.count(3 * SECOND, 7 * SECOND) == 4
