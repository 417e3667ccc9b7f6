"""Zones out of named.conf and of sync's manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from health.zones import from_manifest, from_named_conf, read, stamp

CONF = r"""
// a comment with zone "no.example" { type primary; };
options { directory "/var/named"; /* zone "no.example" { } */ listen-on { any; }; };
key "k" { algorithm hmac-sha256; secret "a{b};c"; };   # zone "no.example"
zone "." { type hint; file "root"; };
zone "one.example" { type primary; file "one"; allow-update { key "k"; }; };
zone "Two.Example." IN { type master; file "{two};"; };
zone three.example { file "x"; type slave; primaries { 192.0.2.1; }; };
zone "fwd.example" { type forward; forwarders { 192.0.2.1; }; };
zone "catalog.example" { type secondary; primaries { 192.0.2.1; }; zone-statistics yes; };
view "inside" { match-clients { any; };
  zone "four.example" { type primary; file "four"; };
  zone "one.example" { type primary; file "one"; };
};
include "more.conf";
zone "five.example" { type mirror; };
"""
MORE = 'zone "included.example" { type primary; file "i"; }; include "more.conf";'


def no_file(name: str) -> str:
    raise FileNotFoundError(name)


def test_named_conf() -> None:
    conf = CONF.replace('include "more.conf";', "")
    assert from_named_conf(conf, no_file) == [
        "one.example", "two.example", "three.example", "catalog.example", "four.example", "five.example"]


def test_include_is_in_its_place_and_bounded() -> None:
    def text(name: str) -> str:
        assert name == "more.conf"
        return MORE.replace('include "more.conf";', "")

    assert from_named_conf(CONF, text)[-2:] == ["included.example", "five.example"]
    with pytest.raises(ValueError, match="includes"):
        from_named_conf(CONF, lambda name: MORE)


def test_manifest() -> None:
    rows = [["", "one.example", "p", 5, 10], ["view", "two.example.", "p", 5, -1], ["v", "one.example", "p", 5, 1]]
    assert from_manifest(json.dumps({"zones": rows}) + "\nsignature\n") == ["one.example", "two.example"]
    for wrong in ("{", "[]", "{}", '{"zones": 3}', '{"zones": [[]]}', '{"zones": [[1, 2]]}', "[" * 100_000):
        with pytest.raises(ValueError, match="manifest"):
            from_manifest(wrong)


def test_files_and_their_stamp(tmp_path: Path) -> None:
    (tmp_path / "named.conf").write_text('include "inner.conf"; zone "b.example" { type primary; };')
    (tmp_path / "inner.conf").write_text('zone "a.example" { type primary; };')
    found = read(str(tmp_path / "named.conf"))
    assert found.zones == ["a.example", "b.example"] and len(found.files) == 2
    assert stamp(found.files) == found.stamp
    (tmp_path / "inner.conf").write_text('zone "a.example" { type primary; }; zone "c.example" { type primary; };')
    assert stamp(found.files) != found.stamp
    (tmp_path / "inner.conf").unlink()
    with pytest.raises(FileNotFoundError):
        read(str(tmp_path / "named.conf"))


@given(st.text(alphabet='zonetypeprimary "{};/*#\n.ax', max_size=200))
def test_anything_is_a_list_or_a_clear_error(text: str) -> None:
    try:
        found = from_named_conf(text, no_file)
    except (ValueError, FileNotFoundError):
        return
    assert len(found) == len(set(found))
