"""Whatever a file holds: `load` returns a Config or raises ConfigError, each problem printable."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.config import ConfigError
from tests.unit.balancer.config.files import PLAIN, load_data

KEYS = st.sampled_from(
    [
        "service",
        "server",
        "admit",
        "name",
        "listen",
        "address",
        "weight",
        "source",
        "sockets",
        "scheduler",
        "query",
        "udp_timeout",
        "process",
        "workers",
        "udp_buffer",
        "inflight_max",
        "admin",
        "socket",
        "nodes",
        "roles",
        "one",
        "transfer",
        "[key]",
        '""',
        '"\\u001b"',
        "x",
    ]
)
SCALARS = st.sampled_from(
    [
        '"127.0.0.1:53"',
        '"[::1]:53"',
        '"0.0.0.0:53"',
        '"10.0.0.0/8"',
        '"2s"',
        '"one"',
        '"wlc"',
        '""',
        "0",
        "-1",
        "70000",
        "true",
        "1.5",
        "nan",
        "1979-05-27",
        '"\\u0000\\u001b"',
        '"x"',
        "0x" + "f" * 40,
    ]
)


@st.composite
def tables(draw: st.DrawFn, depth: int) -> str:
    names = draw(st.lists(KEYS, max_size=4, unique=True))
    pairs = [f"{name.replace('[key]', chr(34) + '[key]' + chr(34))} = {draw(tree(depth))}" for name in names]
    return "{" + ", ".join(pairs) + "}"


def tree(depth: int) -> st.SearchStrategy[str]:
    if depth == 0:
        return SCALARS
    lists = st.lists(st.deferred(lambda: tree(depth - 1)), max_size=3).map(
        lambda items: f"[{', '.join(items)}]"
    )
    return st.one_of(SCALARS, lists, tables(depth - 1))


@st.composite
def documents(draw: st.DrawFn) -> str:
    names = draw(
        st.lists(st.sampled_from(["service", "process", "admin", "nodes", "x"]), unique=True, max_size=5)
    )
    return "\n".join(f"{name} = {draw(tree(4))}" for name in names)


def check(data: bytes) -> None:
    try:
        load_data(data, "one")
    except ConfigError as error:
        assert error.problems
        for problem in error.problems:
            assert str(problem).isprintable()
            assert problem.message


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_bytes(data: bytes) -> None:
    check(data)


@settings(max_examples=60)
@given(st.text(max_size=200))
def test_text(text: str) -> None:
    check(text.encode("utf-8", "surrogatepass"))


@settings(max_examples=60)
@given(documents())
def test_misshapen_documents(text: str) -> None:
    check(text.encode())


@settings(max_examples=60)
@given(st.integers(0, len(PLAIN)), st.integers(0, len(PLAIN)), st.text(alphabet='a[]{}"=.,\n3', max_size=8))
def test_damaged_file(start: int, end: int, between: str) -> None:
    check((PLAIN[:start] + between + PLAIN[end:]).encode())
