"""The position index against tomllib: the same paths, no other, each at the right place."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.config.positions import Path, Position, find_positions, nearest

ODD = '''\
# comment with [brackets] = and "quotes"
title = "a # not a comment" # a comment
"quoted key" = 1
'literal.key' = 2
"esc\\"aped\\u00e9" = 3
dotted.inner . "deep" = 4
dotted.other = 5
date = 1979-05-27 07:32:00Z
text = """
first
[not.a.table]
key = "no key"
ends with quotes"""""
lines = \'\'\'
x = [1,
\'\'\'\'\'
backslash = """a \\""" b \\
   c"""
empty = ""
empty_lines = """"""
nested = [ [1, 2], # one
  [
    "x]", \'y}\', """z
]""",
  ], [], {a = 1, b.c = [ {d = 2}, {} ]},
]
[table] # behind
key = {x = 1, y = {z = "}"}}
[a.b.c]
one = 1
[a]
two = 2
[[list]]
n = 1
[[list.inner]]
m = 1
[[list.inner]]
m = 2
[list.inner.sub]
k = 1
[[list]]
[[list.inner]]
m = 3
[ spaced . "out" ]
tab\t=\t1
'''


def paths_of(value: Any, path: Path = ()) -> set[Path]:
    """Every path of tomllib's tree."""
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return {path} | {found for key, child in children for found in paths_of(child, (*path, key))} - {()}


def check(text: str) -> dict[Path, Position]:
    found = find_positions(text)
    assert set(found) == paths_of(tomllib.loads(text)) - {()}
    return found


def test_odd_text() -> None:
    found = check(ODD)
    lines = ODD.split("\n")
    for path, (line, column) in found.items():
        rest = lines[line - 1][column - 1 :]
        assert rest and not rest[0].isspace(), path
    assert found['esc"apedé',] == (5, 1)
    assert found["dotted", "inner", "deep"] == (6, 16)
    assert found["nested", 1, 2] == (lines.index('    "x]", \'y}\', """z') + 1, 17)
    assert (
        found["nested", 3, "b", "c", 0, "d"][0] == lines.index("  ], [], {a = 1, b.c = [ {d = 2}, {} ]},") + 1
    )
    assert found["a",][0] == lines.index("[a]") + 1, "its own header, not the one that implied it"
    assert found["list", 0, "inner", 1, "m"][0] == lines.index("m = 2") + 1
    assert found["list", 1, "inner", 0, "m"][0] == lines.index("m = 3") + 1


def test_line_ends_of_windows() -> None:
    assert check(ODD.replace("\n", "\r\n")) == check(ODD)


@pytest.mark.parametrize(
    "text", ["", "\n", "# only", "a=1", "[t]", "[[t]]", "a=[]", "a={}", "a=[#]\n]", "a='''\n'''"]
)
def test_small_texts(text: str) -> None:
    check(text)


def test_nearest() -> None:
    found = find_positions("[a]\nb = 1\n")
    assert nearest(found, ("a", "b", 3, "c")) == (2, 1)
    assert nearest(found, ("a", "missing")) == found["a",]
    assert nearest(found, ("nothing",)) == (0, 0)


# A generated document: tables, dotted keys, lists; blanks, comments, quotes and line ends are drawn, too.

MARKS = st.sampled_from(
    ['"x"', "'y#'", '"""m\n[z]\n"""', "'''l\n= 1'''", "1", "-2.5", "true", "1979-05-27", '"\\"]}"']
)
NAMES = st.sampled_from(["a", "b-c", "d_1", "e.f", "g h", "é", 'i"j', "2"])
BLANKS = st.sampled_from(["", " ", "\t ", "  "])


def spelled(draw: st.DrawFn, name: str) -> str:
    if name.isascii() and name.replace("-", "").replace("_", "").isalnum() and draw(st.booleans()):
        return name
    if '"' not in name and draw(st.booleans()):
        return f"'{name}'"
    return '"' + name.replace('"', '\\"').replace("é", draw(st.sampled_from(["é", "\\u00e9"]))) + '"'


@st.composite
def inline(draw: st.DrawFn, depth: int = 2) -> str:
    kind = draw(st.sampled_from(["mark", "list", "table"])) if depth else "mark"
    if kind == "mark":
        return draw(MARKS)
    if kind == "list":
        gap = draw(st.sampled_from(["", " ", "\n  ", " # ]\n", "\n\n"]))
        items = draw(st.lists(inline(depth - 1), max_size=3))
        comma = draw(st.sampled_from(["", ","]))
        tail = comma if items else ""
        return "[" + gap + f"{gap},{gap}".join(items) + tail + gap + "]"
    names = draw(st.lists(NAMES, max_size=3, unique=True))
    pairs = [f"{spelled(draw, name)} = {draw(inline(depth - 1))}" for name in names]
    return "{ " + ", ".join(pairs) + " }"


@st.composite
def document(draw: st.DrawFn) -> str:
    lines: list[str] = []
    heads = draw(
        st.lists(st.sampled_from(["[[l]]", "[[l.m]]", "[l.t]", "[s.u]", "[s]", "[[s.v]]"]), max_size=6)
    )
    for head in ["", *heads]:
        names = draw(st.lists(NAMES, max_size=3, unique=True))
        lines.append(draw(BLANKS) + head + draw(st.sampled_from(["", " # [c]"])))
        for name in names:
            dots = draw(st.sampled_from(["", ".k", " . 'k.k'"]))
            blank = draw(BLANKS)
            lines.append(f"{blank}{spelled(draw, name)}{dots}{blank}={blank}{draw(inline())}{blank}")
    return draw(st.sampled_from(["\n", "\r\n"])).join(lines)


@settings(max_examples=100)
@given(document())
def test_generated_documents(text: str) -> None:
    """tomllib refuses some (tables declared twice); of the others the index knows every path and place."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    found = check(text)
    lines = text.replace("\r\n", "\n").split("\n")
    for path, (line, column) in found.items():
        rest = lines[line - 1][column - 1 :]
        value: Any = tree
        for step in path:
            value = value[step]
        key = path[-1]
        if isinstance(key, str):
            assert rest.startswith((key, '"', "'", "[")), (path, rest)
        elif not isinstance(value, dict):
            assert rest[0] in "[\"'{-012t", (path, rest)


@settings(max_examples=100)
@given(st.text(alphabet="ab.=[]{}\"'#\\,1 \n\r", max_size=40))
def test_accepted_noise(text: str) -> None:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    check(text)
