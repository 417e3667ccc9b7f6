"""Live changes as values: the newest counts, in whatever order they meet; what they make of a document."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.process.live import MOST, Change, Live, agrees, overlaid, value_in
from balancer.process.steering import Store, overlay
from tests.helpers.disk import fill, small_disk
from tests.unit.balancer.config.files import load_text

DOCUMENT: dict[str, Any] = {"service": [{"name": "Dns", "primary": "a", "server": [
    {"name": "A", "address": "192.0.2.1:53"}, {"name": "b", "address": "192.0.2.2:53", "weight": 3}]}]}
TABLE = {"name": "c", "address": "192.0.2.3:53"}
VALUES = {"server": st.none() | st.just(TABLE), "weight": st.integers(0, 9),
          "state": st.sampled_from(["up", "drained"])}


def change(what: str, value: Any, server: str = "a", time: float = 1.0, **more: Any) -> Change:
    return Change("dns", server, what, value, "root", time, more.pop("node", "n1"), **more)


@st.composite
def some_changes(draw: st.DrawFn) -> Change:
    what = draw(st.sampled_from(["server", "weight", "state"]))
    server = draw(st.sampled_from("abc"))
    value = draw(VALUES[what])
    if what == "server" and value is not None:
        value = {**value, "name": server.upper()}
    return change(what, value, server, draw(st.integers(0, 5)) / 1,
                  node=draw(st.sampled_from(["n1", "n2"])), lifted=draw(st.booleans()), saved=draw(st.booleans()))


LIVES = st.lists(some_changes(), max_size=8).map(Live)


@settings(max_examples=40)
@given(LIVES, LIVES, LIVES)
def test_merging_is_the_same_in_any_order(one: Live, two: Live, three: Live) -> None:
    assert one.merge(two).export() == two.merge(one).export()
    assert one.merge(two).merge(three).export() == one.merge(two.merge(three)).export()
    assert one.merge(one).export() == one.export()


@settings(max_examples=40)
@given(LIVES)
def test_survives_every_way_back(known: Live) -> None:
    again = Live.load(json.loads(known.encode()))
    assert again.export() == known.export() and again.settled == known.settled


@settings(max_examples=40)
@given(LIVES, some_changes())
def test_a_new_change_counts_whatever_the_clock_says(known: Live, new: Change) -> None:
    new = new._replace(time=known.time(0.0), lifted=False, saved=False)
    assert known.put(new).changes[new.key] == new


@settings(max_examples=40)
@given(LIVES)
def test_what_counts_can_be_read_in_the_document(known: Live) -> None:
    """Unless another change stands above it, or it says why it does not count."""
    changes = known.active()
    document, idle = overlaid(DOCUMENT, changes)
    assert len(document["service"][0]["server"]) >= 1
    for one in changes:
        gone = value_in(document, (one.service, one.server, "server")) is None
        assert one.key in idle or agrees(document, one) or gone


def test_what_it_makes_of_a_document() -> None:
    changes = [change("weight", 5), change("state", "drained", "b"), change("server", TABLE, "c")]
    document, idle = overlaid(DOCUMENT, changes)
    assert not idle
    assert document["service"][0]["server"] == [
        {"name": "A", "address": "192.0.2.1:53", "weight": 5},
        {"name": "b", "address": "192.0.2.2:53", "weight": 3, "state": "drained"}, TABLE]
    assert "weight" not in DOCUMENT["service"][0]["server"][0], "the file's own stays as it is"


@pytest.mark.parametrize(("one", "why"), [
    (change("weight", 1, "x"), "no server x"), (change("server", None, "a"), "the primary"),
    (change("weight", 1)._replace(service="web"), "no service web")])
def test_what_does_not_count_says_why(one: Change, why: str) -> None:
    document, idle = overlaid(DOCUMENT, [one])
    assert document == DOCUMENT and why in idle[one.key]


def test_last_server_stays() -> None:
    document = {"service": [{"name": "dns", "server": [{"name": "a", "address": "192.0.2.1:53"}]}]}
    _, idle = overlaid(document, [change("server", None)])
    assert "last server" in idle["dns", "a", "server"]


def test_saved_counts_until_the_file_has_it() -> None:
    saved = Live([change("weight", 5)]).save([("dns", "a", "weight")], 2.0)
    assert saved.settle(DOCUMENT).active() == saved.active() != []
    with_it, _ = overlaid(DOCUMENT, saved.active())
    settled = saved.settle(with_it)
    assert settled.active() == []
    assert settled.settle(DOCUMENT).active() == [], "from then on the file is obeyed"
    assert settled.export() == saved.export(), "another host, whose file is older, goes on"
    assert settled.put(change("weight", 6, time=3.0)).active() != [], "but a new change is a new change"


def test_lifted_is_remembered() -> None:
    """A director that was away must not bring it back."""
    known = Live([change("weight", 5)])
    lifted = known.lift([("dns", "a", "weight")], "root", 2.0, "n2")
    assert lifted.active() == lifted.merge(known).active() == []


def test_number_is_bounded() -> None:
    """What says nothing any more goes first."""
    idle = [change("weight", None, f"s{number}", number, lifted=True) for number in range(MOST)]
    known = Live([*idle, *(change("weight", 1, f"t{number}", 0) for number in range(10))])
    assert len(known.changes) == MOST and len(known.active()) == 10
    assert ("dns", "s9", "weight") not in known.changes


@pytest.mark.parametrize("data", [
    None, [], {}, {"format": 2, "changes": []}, {"format": 1, "changes": 5}, {"format": 1, "changes": [[1, 2]]},
    {"format": 1, "changes": [["dns", "a", "weight", "5", "root", 1.0, "n"]]},
    {"format": 1, "changes": [["dns", "a", "weight", True, "root", 1.0, "n"]]},
    {"format": 1, "changes": [["dns", "a", "weight", 5, "ro\not", 1.0, "n"]]},
    {"format": 1, "changes": [["dns", "a", "weight", 5, "root", float("nan"), "n"]]},
    {"format": 1, "changes": [["dns", "a", "weight", 5, "root", float("inf"), "n"]]},
    {"format": 1, "changes": [["dns", "a", "server", {"address": {}}, "root", 1.0, "n"]]},
    {"format": 1, "changes": [["dns", "a", "server", {"address": "192.0.2.1:53"}, "root", 1.0, "n"]]},
    {"format": 1, "changes": [["dns", "a", "server", {"address": "192.0.2.1:53", "name": "b"}, "root", 1.0, "n"]]},
    {"format": 1, "changes": [["dns", "a", "name", "b", "root", 1.0, "n"]]},
    {"format": 1, "changes": [["dns", "a", ["weight"], "b", "root", 1.0, "n"]]},
    {"format": 1, "changes": [["dns", "a", "weight", 5, "root", 1.0, "n"]] * (MOST + 1)}])
def test_anything_else_is_refused(data: Any) -> None:
    with pytest.raises(ValueError):
        Live.load(data)


CONFIG = """[[service]]
name = "dns"
listen = ["127.0.0.1:5300"]
[[service.server]]
name = "a"
address = "192.0.2.1:53"
"""


def test_one_that_is_not_allowed_does_not_cost_the_others() -> None:
    good, bad = change("weight", 5), change("state", "sideways")
    loop = change("server", {"name": "c", "address": "127.0.0.1:5300"}, "c")
    made = overlay(load_text(CONFIG), Live([good, bad, loop]))
    (server,) = made.config.services[0].servers
    assert (server.name, server.weight, server.state) == ("a", 5, "auto")
    assert "one of auto" in made.idle[bad.key] and "circles" in made.idle[loop.key]
    assert good.key not in made.idle


class TestStore:
    def test_keeps(self, tmp_path: Any) -> None:
        store = Store(str(tmp_path))
        assert store.load().changes == {}
        known = Live([change("weight", 5)])
        assert store.save(known) == ""
        assert store.load().export() == known.export() and store.warning == ""

    @pytest.mark.parametrize("data", [b"", b"\0" * 100, b"[" * 100_000, b'{"format": 9}', b"x" * (5 << 20)])
    def test_what_cannot_be_understood_is_kept_aside(self, tmp_path: Any, data: bytes) -> None:
        (tmp_path / "live.json").write_bytes(data)
        store = Store(str(tmp_path))
        assert store.load().changes == {}
        assert "live.broken" in store.warning
        assert (tmp_path / "live.broken").read_bytes() == data and not (tmp_path / "live.json").exists()

    def test_disk_that_takes_nothing_is_told(self, tmp_path: Any) -> None:
        (tmp_path / "live.json.new").mkdir()
        assert "not kept over a restart" in Store(str(tmp_path)).save(Live())

    def test_full_disk_leaves_nothing_behind(self, tmp_path: Any) -> None:
        with small_disk(tmp_path / "disk") as disk:
            store = Store(str(disk))
            assert store.save(Live()) == ""
            before = (disk / "live.json").read_bytes()
            fill(disk)
            changes = Live([change("weight", number, f"s{number}") for number in range(500)])
            assert "No space left" in store.save(changes)
            assert sorted(path.name for path in disk.iterdir()) == ["filler", "live.json"]
            assert (disk / "live.json").read_bytes() == before
