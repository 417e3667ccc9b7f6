"""Generations on disk: whole at any moment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from balancer.errors import StartError
from sync.manifest import CONF, Manifest, encode
from sync.store import UNKNOWN, Busy, State, Store
from tests.unit.sync.makers import DIGEST, SECRET


@pytest.fixture
def store(tmp_path: Path) -> Store:
    one = Store(str(tmp_path / "store"))
    one.open()
    return one


def add(store: Store, generation: int, content: dict[str, bytes]) -> Manifest:
    """A generation with these files beside its configuration."""
    store.begin()
    files = {CONF: store.put(CONF, b'zone "a" { file "@TREE@/zones/a"; };\n', 0o644)}
    for path, data in content.items():
        files[path] = store.put(path, data, 0o640)
    made = Manifest(generation, 0.0, 0, DIGEST, files, {})
    store.adopt(generation, encode(made, SECRET))
    return made


def test_new_store_has_something_to_include(store: Store) -> None:
    assert store.current() == 0 and store.state() == State()
    assert 'acl "ns7-generation-0" { none; };' in (store.current_path / CONF).read_text()
    store.open()
    assert store.generations() == [0] and store.published() is None


def test_store_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"sync\.store"):
        Store(str(tmp_path / "file" / "store")).open()


def test_adopt_and_switch(store: Store) -> None:
    add(store, 5, {"zones/a": b"one"})
    assert store.current() == 0 and store.generations() == [0, 5]
    store.switch(5)
    text = (store.current_path / CONF).read_text()
    assert f'file "{store.current_path}/tree/zones/a";' in text and "ns7-generation-5" in text
    assert not store.staging.exists()


def test_same_content_is_linked(store: Store) -> None:
    old = add(store, 1, {"zones/a": b"one", "zones/b": b"two"})
    new = old._replace(generation=2)
    store.begin()
    assert store.keep_all(new, old) == []
    assert (store.tree(1) / "zones/a").samefile(store.staging / "tree/zones/a")
    (store.tree(1) / "zones/b").unlink()
    store.begin()
    assert store.keep_all(new, old) == ["zones/b"], "somebody has removed it"


def test_verify(store: Store) -> None:
    made = add(store, 1, {"zones/a": b"one", "zones/b": b"two", "zones/c": b"three"})
    store.begin()
    store.put("zones/a", b"one", 0o600)
    store.put("zones/b", b"twa", 0o600)
    (store.staging / "tree/zones/c").symlink_to("/etc/passwd")
    assert store.verify(made, ["zones/a"]) == []
    assert (store.staging / "tree/zones/a").stat().st_mode & 0o777 == 0o640
    wrong = store.verify(made, ["zones/b", "zones/c"])
    assert len(wrong) == 2 and "content" in wrong[0]


def test_one_at_a_time(store: Store) -> None:
    with store.locked(), pytest.raises(Busy), Store(str(store.root)).locked():
        pass
    with store.locked():
        pass


def test_state(store: Store) -> None:
    add(store, 3, {})
    store.note(State(3, 0, {2: "gone", 4: "why"}))
    assert store.state() == State(3, 0, {4: "why"}), "what is older than all that is kept is forgotten"
    for damage in ("", "{", "[]", '{"served": 1}', '{"served": "x", "loading": 0, "bad": {}}'):
        (store.root / "state").write_text(damage)
        assert store.state() == State(0, UNKNOWN, {})


def test_prune(store: Store) -> None:
    for generation in range(1, 8):
        add(store, generation, {"zones/a": b"%d" % generation})
    store.prune(3, {2})
    assert store.generations() == [0, 2, 5, 6, 7]
    assert (store.tree(7) / "zones/a").read_bytes() == b"7"


def test_touch_makes_newer_than_anything(store: Store) -> None:
    add(store, 1, {"zones/a": b"one"})
    path = store.tree(1) / "zones/a"
    os.utime(path, (1, 1))
    before = store.root.stat().st_mtime_ns
    store.touch(1, ["zones/a"])
    assert path.stat().st_mtime_ns >= before


def test_left_overs_of_a_run_that_died(store: Store) -> None:
    store.begin()
    store.put("zones/a", b"half", 0o644)
    (store.root / "current.new").symlink_to("generations/9")
    (store.root / "state.new").write_text("half")
    (store.root / "generations" / "5").mkdir()
    made = add(store, 5, {"zones/a": b"whole"})
    store.switch(5)
    store.note(State(5))
    assert store.current() == 5 and store.state() == State(5)
    assert store.verify(made, []) == [] and (store.tree(5) / "zones/a").read_bytes() == b"whole"
