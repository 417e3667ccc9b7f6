"""Every unit test ends with nothing in flight."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def nothing_stays_in_flight() -> Iterator[None]:
    """Records that a test claimed are released, or gone with their slots, when it is over."""
    yield
    query = sys.modules.get("balancer.datapath.query")
    if query is not None and query.live():
        gc.collect()                    # slots in a reference cycle
        assert query.live() == 0, "records are still in use"
