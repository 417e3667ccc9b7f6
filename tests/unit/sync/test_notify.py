"""Which messages are obeyed."""

from __future__ import annotations

import time

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rrset
import dns.tsig
import pytest

from balancer.namedconf import ConfError
from sync import notify
from sync.manifest import ManifestError
from sync.notify import FUDGE, Guard, Refused

TEXT = 'key "sync" { algorithm hmac-sha256; secret "c3luYyBzY2VuYXJpb3Mgb25seSwgbm90IGEgc2VjcmV0IQ=="; };'
KEY = notify.load_key(TEXT)
STATUS = {"generation": 5, "state": "failed", "reason": 'a "quoted" \\ reason, ü', "failed": 6}


@pytest.fixture
def guard() -> Guard:
    return Guard(KEY)


def refused(guard: Guard, wire: bytes, now: float = 0.0) -> str:
    with pytest.raises(Refused) as error:
        guard.hear(wire, now)
    return str(error.value)


def test_notify_is_heard(guard: Guard) -> None:
    heard = guard.hear(notify.notify(1234567890123, KEY).to_wire(), 0.0)
    assert heard.generation == 1234567890123
    answer = dns.message.from_wire(notify.reply(heard, STATUS), keyring=KEY, request_mac=heard.message.mac)
    assert answer.opcode() == dns.opcode.NOTIFY and answer.flags & dns.flags.QR and not answer.answer


def test_status_is_told(guard: Guard) -> None:
    query = notify.query(KEY)
    heard = guard.hear(query.to_wire(), 0.0)
    assert heard.generation is None
    answer = dns.message.from_wire(notify.reply(heard, STATUS), keyring=KEY, request_mac=heard.message.mac)
    assert query.is_response(answer)
    assert notify.read_status(answer) == STATUS


def test_longest_status_passes(guard: Guard) -> None:
    heard = guard.hear(notify.query(KEY).to_wire(), 0.0)
    assert len(notify.reply(heard, {**STATUS, "reason": "x" * 300})) < 900     # in one piece over any path


def test_status_that_cannot_be_read() -> None:
    for text in ('"x"', '"{}"', "1"):
        answer = dns.message.make_query(notify.NAME, "TXT")
        answer.answer.append(dns.rrset.from_text(notify.NAME, 0, "IN", "TXT", text))
        with pytest.raises(ManifestError):
            notify.read_status(answer)


def test_unsigned(guard: Guard) -> None:
    message = dns.message.make_query(notify.NAME, "SOA")
    message.set_opcode(dns.opcode.NOTIFY)
    assert refused(guard, message.to_wire()) == "unsigned"


def test_wrong_key(guard: Guard) -> None:
    for name, algorithm in (("other", "hmac-sha256"), ("sync", "hmac-sha512")):
        other = dns.tsig.Key(name, KEY.secret, algorithm)
        assert refused(guard, notify.notify(7, other).to_wire()) == "wrong key"
    other = dns.tsig.Key("sync", b"another secret of good length", "hmac-sha256")
    assert refused(guard, notify.notify(7, other).to_wire()) == "wrong signature"


def test_changed_on_the_way(guard: Guard) -> None:
    wire = bytearray(notify.notify(7, KEY).to_wire())
    at = wire.index(b"\x017")           # the TXT record
    wire[at + 1] = ord("8")
    assert refused(guard, bytes(wire)) == "wrong signature"


def test_replayed(guard: Guard) -> None:
    wire = notify.notify(7, KEY).to_wire()
    guard.hear(wire, 0.0)
    for now in (0.0, 1.0, 2.0 * FUDGE):
        assert refused(guard, wire, now) == "replayed"
    guard.hear(notify.notify(7, KEY).to_wire(), 0.0)        # the same, signed anew, with another id


def test_memory_ends_after_the_message_has_expired(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync.notify.MOST_REMEMBERED", 2)
    guard.hear(notify.notify(1, KEY).to_wire(), 0.0)
    guard.hear(notify.notify(2, KEY).to_wire(), 1.0)
    assert refused(guard, notify.notify(3, KEY).to_wire(), 2.0) == "replayed"
    guard.hear(notify.notify(4, KEY).to_wire(), 2 * FUDGE + 1.0)


@pytest.mark.parametrize("skew", [-FUDGE - 5, FUDGE + 5])
def test_another_clock(guard: Guard, monkeypatch: pytest.MonkeyPatch, skew: float) -> None:
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + skew)
    wire = notify.notify(7, KEY).to_wire()
    monkeypatch.setattr("time.time", lambda: now)
    assert refused(guard, wire) == "wrong time"


def test_longer_life_than_we_remember(guard: Guard) -> None:
    message = notify.notify(7, KEY)
    message.use_tsig(KEY, fudge=30_000)
    assert refused(guard, message.to_wire()) == "wrong time"


def test_unexpected(guard: Guard) -> None:
    for name, kind, opcode in (("example.", "SOA", dns.opcode.NOTIFY), ("sync.ns7.", "SOA", dns.opcode.QUERY),
                               ("sync.ns7.", "TXT", dns.opcode.NOTIFY), ("sync.ns7.", "SOA", dns.opcode.NOTIFY)):
        message = dns.message.make_query(name, kind)
        message.set_opcode(opcode)
        message.use_tsig(KEY)
        assert refused(guard, message.to_wire()) == "unexpected", (name, kind, opcode)
    answer = notify.notify(7, KEY)
    answer.flags |= dns.flags.QR
    assert refused(guard, answer.to_wire()) == "unexpected", "an answer must not be answered"


def test_malformed(guard: Guard) -> None:
    for wire in (b"", b"x", bytes(12), b"\xff" * 100, notify.notify(7, KEY).to_wire()[:-3], bytes(5000)):
        assert refused(guard, wire) in ("malformed", "unsigned")


def test_what_is_refused_is_counted_and_told_once_a_minute(guard: Guard) -> None:
    lines = []
    for second in range(600):
        for _ in range(10):
            refused(guard, b"x", float(second))
        lines.append(guard.news(float(second)))
    assert guard.refused["malformed"] == 6000
    told = [line for line in lines if line]
    assert len(told) == 10 and told[1] == "messages refused: 600 malformed"


@pytest.mark.parametrize("text", [
    TEXT.replace("hmac-sha256", "hmac-md5"), TEXT.replace("c3luYy", "!!!!"), "", TEXT.replace("sync", "a..b"),
    'key "a" { algorithm hmac-sha256; secret "YQ=="; };',
])
def test_key_files_that_cannot_be_used(text: str) -> None:
    with pytest.raises(ConfError):
        notify.load_key(text)
