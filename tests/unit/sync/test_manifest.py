"""A manifest is believed when it is signed, and says only what can be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.manifest import CONF, ManifestError, decode, encode, parse
from tests.unit.sync.makers import SECRET, manifest

GOOD = manifest(7, {"a.example": (1, 5), "b.example": (2, -1)}, forced=3)
DATA = encode(GOOD, SECRET)


def test_round_trip() -> None:
    assert decode(DATA, SECRET) == GOOD
    assert parse(DATA) == GOOD


def test_another_key() -> None:
    with pytest.raises(ManifestError, match="not signed with our key"):
        decode(DATA, b"another secret")


@given(st.integers(0, len(DATA) - 2), st.integers(1, 255))
def test_one_changed_byte(at: int, change: int) -> None:
    data = DATA[:at] + bytes([DATA[at] ^ change]) + DATA[at + 1:]
    with pytest.raises(ManifestError):
        decode(data, SECRET)


@given(st.integers(0, len(DATA) - 2))
def test_cut_short(length: int) -> None:
    with pytest.raises(ManifestError):
        decode(DATA[:length], SECRET)


def broken(change: dict[str, Any]) -> bytes:
    return json.dumps({**json.loads(DATA.partition(b"\n")[0]), **change}).encode()


FILE = [10, "0" * 64, 420]


@pytest.mark.parametrize("change", [
    {"format": 2}, {"generation": 0}, {"generation": -1}, {"generation": "7"}, {"generation": True},
    {"generation": 1 << 63}, {"time": "now"}, {"config": "x"}, {"files": []}, {"files": None},
    {"files": [["x", *FILE]]},
    {"files": [[CONF, *FILE]]}, {"zones": [["", "a.example", "zones/a.example", 1, 5]] * 2},
    *({"files": [[CONF, *FILE], [path, *FILE]], "zones": [["", "a.example", path, 1, 5]]} for path in (
        "/etc/passwd", "../x", "zones/../../x", "zones/./x", "-e", "zones/-e", ".hidden", "zones//x", "x\n", "x/", "",
        "a" * 401, "zones/x\0", 7)),
    {"files": [[CONF, *FILE], ["z", *FILE], ["z/a", *FILE]],
     "zones": [["", "a", "z", 1, 5], ["", "b", "z/a", 1, 5]]},
    {"files": [[CONF, *FILE], ["z", 10, "0" * 64, 0o4755]], "zones": [["", "a", "z", 1, 5]]},
    {"files": [[CONF, *FILE], ["z", 10, "F" * 64, 420]], "zones": [["", "a", "z", 1, 5]]},
    {"files": [[CONF, *FILE], ["z", *FILE]], "zones": [["", 'a" { }; include "/etc/shadow', "z", 1, 5]]},
    {"files": [[CONF, *FILE], ["z", *FILE]], "zones": [["a b", "a", "z", 1, 5]]},
    {"files": [[CONF, *FILE], ["z", *FILE]], "zones": [["", "a", "z", 1 << 32, 5]]},
    {"files": [[CONF, *FILE], ["z", *FILE]], "zones": [["", "a", "z", 1, -2]]},
    {"files": [[CONF, *FILE], ["z", *FILE]], "zones": [["", "a", "z", 1]]},
])
def test_signed_nonsense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ManifestError):
        parse(broken(change))


@pytest.mark.parametrize("data", [b"", b"\n", b"[]", b"{}", b"null", b"[" * 100_000, b"\xff", b"1e999"])
def test_no_manifest_at_all(data: bytes) -> None:
    with pytest.raises(ManifestError):
        parse(data)
