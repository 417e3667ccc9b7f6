"""The status page's files: what is sent, how, and what must not stand in them."""

from __future__ import annotations

import gzip
import hashlib
import re

import pytest

from balancer.admin.page import FOLDER, load
from tests.unit.balancer.admin.conftest import Start

LARGEST = 120_000           # bytes of the whole page, packed
SCRIPTS = sorted(path for path in FOLDER.glob("*.js"))


async def test_files_are_served(start: Start) -> None:
    """Each as it lies there, packed for who takes that, and not twice."""
    admin = await start()
    for path, file in load().items():
        plain, packed = await admin.get(path), await admin.get(path, headers={"Accept-Encoding": "br, gzip"})
        assert (plain.status, packed.status) == (200, 200)
        assert plain.body == gzip.decompress(packed.body) == file.body
        assert packed.headers["content-encoding"] == "gzip"
        for answer in (plain, packed):
            assert answer.headers["content-type"] == file.kind
            assert answer.headers["cache-control"] == "no-cache"
            assert answer.headers["vary"] == "Accept-Encoding"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "script-src 'self'; style-src 'self'" in answer.headers["content-security-policy"]
            assert "unsafe" not in answer.headers["content-security-policy"]
        again = await admin.get(path, headers={"If-None-Match": plain.headers["etag"]})
        assert (again.status, again.body) == (304, b"")


def test_size() -> None:
    assert sum(len(file.packed) for file in load().values()) <= LARGEST


def test_all_that_is_asked_for_is_there() -> None:
    """And comes from here: nothing inline, no address of anybody else."""
    files = load()
    html = files["/"].body.decode()
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\son\w+=|\sstyle=", html)
    assert set(re.findall(r'(?:href|src)="(/[^"]*)"', html)) - set(files) == {"/api/v1/status"}
    for path in (*SCRIPTS, FOLDER / "page.css", FOLDER / "index.html"):
        text = path.read_text()
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path
        for name in re.findall(r'from "\./([^"]+)"', text):
            assert f"/page/{name}" in files


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_text_stays_text(script: object) -> None:
    """No way by which a name or a reason could become markup or code."""
    text = script.read_text()       # type: ignore[attr-defined]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|DOMParser", text)


def test_what_is_not_ours_is_as_it_came() -> None:
    sums = dict(re.findall(r"\| `(\S+)` \| `([0-9a-f]{64})` \|", (FOLDER / "uplot" / "README.md").read_text()))
    assert len(sums) == 2
    for name, expected in sums.items():
        assert hashlib.sha256((FOLDER / "uplot" / name).read_bytes()).hexdigest() == expected
    assert "MIT License" in (FOLDER / "uplot" / "LICENSE").read_text()
