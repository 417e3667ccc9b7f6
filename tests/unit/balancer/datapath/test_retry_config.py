"""The settings of second servers, as the operator writes them."""

from __future__ import annotations

import pytest

from balancer.config.values import auto_or, duration

RULE = auto_or(duration("1ms", "10s"))


def test_auto_is_zero() -> None:
    assert RULE("auto") == 0.0
    assert RULE("250ms") == 0.25


@pytest.mark.parametrize("bad", ["", "Auto", "0ms", "11s", 5, None])
def test_anything_else_is_told(bad: object) -> None:
    with pytest.raises(ValueError, match="auto"):
        RULE(bad)
