"""sd_listen_fds(3): what is not meant for us, or not well-formed, is left alone; the variables go in any case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.process.systemd import take

PID = 4711
NAMES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


@pytest.mark.parametrize("count", ["", "0", "-1", "many", "99999999999", "4097", "1 ", "0x1", "²"])
def test_wrong_count(count: str) -> None:
    environment = {"LISTEN_FDS": count, "LISTEN_PID": str(PID), "LISTEN_FDNAMES": "a:b", "PATH": "/bin"}
    assert take(environment, PID) == []
    assert environment == {"PATH": "/bin"}


@given(st.dictionaries(st.sampled_from(NAMES), st.text(max_size=20)))
def test_not_for_us(environment: dict[str, str]) -> None:
    assert take({**environment, "LISTEN_PID": "1"}, PID) == []
