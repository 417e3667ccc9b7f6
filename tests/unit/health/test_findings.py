"""What doctor says of servers: facts in, findings out."""

from __future__ import annotations

import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.component import SEVERITIES, Finding
from health.findings import (
    Answers,
    Zones,
    comparable,
    judge_answers,
    judge_clocks,
    judge_cookies,
    judge_zones,
    set_option,
)

RIGHT = Answers("ns7c1", "192.0.2.88:53", "", "", False, False, "example.com")


def cookie(second: int, secret: int) -> bytes:
    """A server's cookie as RFC 9018 has it."""
    return struct.pack("!BBHIQ", 1, 0, 0, second, second * 31 + secret)


def one(findings: object) -> Finding:
    (finding,) = list(findings)  # type: ignore[call-overload]
    assert isinstance(finding, Finding) and finding.severity in SEVERITIES
    subprocess.run(["sh", "-n"], input=finding.fix, text=True, check=True)
    return finding


def test_zones() -> None:
    assert list(judge_zones(Zones("", "", True))) == []
    assert "no zones" in one(judge_zones(Zones("", "", False))).what
    assert "setfacl" in one(judge_zones(Zones("/x", "Permission denied", True))).fix


def test_answers() -> None:
    assert list(judge_answers((RIGHT,))) == list(judge_answers(())) == []
    assert "over UDP (no answer) and TCP" in one(judge_answers((RIGHT._replace(udp="no answer", tcp="refused"),))).what
    assert one(judge_answers((RIGHT._replace(recursive=True),))).severity == "error"
    assert "without a key" in one(judge_answers((RIGHT._replace(transfers=True),))).what
    assert one(judge_answers((RIGHT._replace(transfers=None, zone=""),))).severity == "unknown"


@pytest.mark.parametrize(("cookies", "found"), [
    ({"a": (cookie(5, 1),), "b": (cookie(5, 1),)}, ""),
    ({"a": (cookie(5, 1),), "b": (cookie(5, 2),)}, "different"),
    ({"a": (cookie(5, 1), cookie(6, 1)), "b": (cookie(6, 1), cookie(7, 1))}, ""),
    ({"a": (cookie(5, 1),), "b": (cookie(9, 1),)}, "cannot be told"),
    ({"a": (cookie(5, 1),), "b": ()}, "b answers without"),
    ({"a": (), "b": ()}, ""), ({"a": (cookie(5, 1),)}, ""), ({}, ""),
    ({"a": (cookie(5, 1),), "b": (b"12345678",)}, "different"),
])
def test_cookies(cookies: dict[str, tuple[bytes, ...]], found: str) -> None:
    assert found in (one(judge_cookies(cookies)).what if found else "")
    assert found or list(judge_cookies(cookies)) == []


@given(st.dictionaries(st.sampled_from("abc"), st.lists(st.binary(min_size=8, max_size=32), max_size=3).map(tuple)))
def test_any_cookies(cookies: dict[str, tuple[bytes, ...]]) -> None:
    """Two servers are never said to differ when they say the same."""
    comparable(cookies)
    found = list(judge_cookies(cookies))
    assert len(found) <= 1
    same = {server: next(iter(cookies.values()), ()) for server in cookies}
    assert list(judge_cookies(same)) == []


def test_clocks() -> None:
    assert list(judge_clocks((("a", 3.0), ("b", -9.0)))) == []
    assert one(judge_clocks((("a", 60.0),))).severity == "warning"
    assert one(judge_clocks((("a", -400.0),))).severity == "error"


@pytest.mark.parametrize("text", [
    "options {\n};\n", "options\n{ recursion yes; };\n", "options {\n\trecursion  yes ;\n};"])
def test_set_option(text: str) -> None:
    words = set_option("recursion", "no", "x").partition(" /etc/")[0]
    done = subprocess.run(f"{words.replace('-Ezi', '-Ez')}", shell=True, input=text, capture_output=True, text=True,
                          check=True)
    assert done.stdout.count("recursion") == 1 and "recursion no;" in done.stdout
