"""What directors tell each other: believed only when it is authentic and new."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.component import Event
from failover.peers import PATIENCE, Peers
from failover.status import MAC_BYTES, REASONS, Exchange, Rejected
from failover.troubles import Troubles

KEY = b"k" * 32


def pair() -> tuple[Exchange, Exchange]:
    return Exchange(KEY, "ns7c0", "session-a"), Exchange(KEY, "ns7c1", "session-b")


def met() -> tuple[Exchange, Exchange]:
    one, other = pair()
    assert other.read(one.tell({})) is None, "nothing proves yet that it is no recording"
    assert one.read(other.tell({})) is not None
    assert other.read(one.tell({})) is not None
    return one, other


def reason(exchange: Exchange, datagram: bytes) -> str:
    with pytest.raises(Rejected) as rejected:
        exchange.read(datagram)
    assert rejected.value.reason in REASONS
    return rejected.value.reason


def test_it_is_told() -> None:
    one, other = met()
    told = other.read(one.tell({"fit": True}))
    assert told is not None and (told.node, told.facts, told.text) == ("ns7c0", {"fit": True}, None)


def test_nothing_is_believed_twice_or_from_another_key() -> None:
    one, other = met()
    datagram = one.tell({"fit": True})
    assert other.read(datagram)
    assert reason(other, datagram) == "replayed"
    assert reason(one, one.tell({})) == "own"
    assert reason(other, Exchange(b"x" * 32, "ns7c0", "session-a").tell({})) == "mac"
    assert reason(other, datagram[:-1]) == "mac"
    assert reason(other, datagram[:MAC_BYTES]) == "size"
    assert reason(other, bytes(70_000)) == "size"


def test_recordings_of_an_earlier_process_are_dead() -> None:
    """Whatever was recorded before the other side or we were started anew: not believed."""
    one, other = met()
    recorded = [one.tell({"fit": False}) for _ in range(5)]
    again = Exchange(KEY, "ns7c1", "session-c")
    assert all(again.read(datagram) is None for datagram in recorded)
    reborn = Exchange(KEY, "ns7c0", "session-d")
    other.read(reborn.tell({}))
    reborn.read(other.tell({}))
    assert other.read(reborn.tell({})) is not None
    assert {reason(other, datagram) for datagram in recorded} == {"replayed"}, "its session is over"


def test_what_answers_nothing_new_is_not_believed() -> None:
    one, other = met()
    recorded = one.tell({})
    for _ in range(20):
        other.tell({})
    assert other.read(recorded) is None


def test_text_in_pieces() -> None:
    one, other = met()
    text = json.dumps({"changes": ["x" * 100] * 1000})
    datagrams = list(one.tell_text({"live": "d"}, "d", text))
    assert len(datagrams) > 1
    *before, last = [other.read(datagram) for datagram in datagrams]
    assert all(told is not None and told.text is None for told in before)
    assert last is not None and last.text == text


@pytest.mark.parametrize("body", [
    [], {}, {"node": "n"}, {"node": "n", "session": "s", "number": "x", "heard": {}, "facts": {}},
    {"node": "n", "session": "s", "number": 1, "heard": [], "facts": {}},
    {"node": "n", "session": "s", "number": 1, "heard": {}, "facts": 7},
    {"node": "n", "session": "s", "number": 1, "heard": {}, "facts": {}, "piece": ["l", 9, 2, "t"]},
    {"node": "n", "session": "s", "number": 1, "heard": {}, "facts": {}, "piece": []}])
def test_malformed(body: Any) -> None:
    _, other = pair()
    data = json.dumps(body).encode()
    assert reason(other, hmac.digest(KEY, data, hashlib.sha256) + data) == "malformed"


@given(st.binary(max_size=300))
def test_noise(data: bytes) -> None:
    _, other = pair()
    for datagram in (data, hmac.digest(KEY, data, hashlib.sha256) + data):
        with pytest.raises(Rejected):
            other.read(datagram)


def test_news_of_the_other_directors() -> None:
    peers = Peers(100.0, {})
    assert peers.news(True, "f", 100.0 + PATIENCE - 1) == []
    (news,) = peers.news(True, "f", 100.0 + PATIENCE)
    assert (news.kind, news.after, news.reason) == ("standby", "missing", "no other director is heard")
    peers.take("ns7c1", {"fit": True, "fingerprint": "f"}, 111.0)
    (news,) = peers.news(True, "f", 111.0)
    assert (news.after, news.reason) == ("present", "ns7c1")
    told = []
    for second in range(112, 140):
        peers.take("ns7c1", {"fit": False, "why": "no worker is alive", "fingerprint": "g"}, float(second))
        told += peers.news(True, "f", float(second))
    assert [(news.kind, news.subject, news.after) for news in told] == [
        ("standby", "director", "missing"), ("config", "ns7c1", "differs")]
    assert "no worker is alive" in told[0].reason
    peers.take("ns7c1", {"fit": True, "fingerprint": "f"}, 140.0)
    assert {news.after for news in peers.news(True, "f", 140.0)} == {"present", "same"}
    assert peers.alive(140.0) == ["ns7c1"] and peers.alive(150.0) == []


def test_a_standby_tells_nothing() -> None:
    peers = Peers(0.0, {})
    assert [peers.news(False, "f", float(second)) for second in range(60)] == [[]] * 60


def test_a_successor_tells_the_end_of_what_was_told() -> None:
    peers = Peers(0.0, {})
    for second in range(20):
        peers.take("ns7c1", {"fit": False, "fingerprint": "g"}, float(second))
        peers.news(True, "f", float(second))
    told = json.loads(json.dumps(peers.told))
    heir = Peers(20.0, told)
    heir.take("ns7c1", {"fit": False, "fingerprint": "g"}, 20.0)
    assert heir.news(True, "f", 20.0) == [], "nothing is told twice"
    heir.take("ns7c1", {"fit": True, "fingerprint": "f"}, 21.0)
    assert [(news.kind, news.before, news.after) for news in heir.news(True, "f", 21.0)] == [
        ("standby", "missing", "present"), ("config", "differs", "same")]
    assert Peers(20.0, heir.told).news(True, "f", 20.0) == []


def test_troubles_go_on_where_a_predecessor_was() -> None:
    events: list[Event] = []
    first = Troubles(events.append, ())
    first.set("port", "192.0.2.90", "taken", "named")
    heir = Troubles(events.append, json.loads(json.dumps(first.shown())))
    heir.set("port", "192.0.2.90", "taken", "named")
    heir.set("port", "192.0.2.90", "")
    assert [event[1:5] for event in events] == [
        ("port", "192.0.2.90", "ok", "taken"), ("port", "192.0.2.90", "taken", "ok")]
    assert heir.shown() == []
