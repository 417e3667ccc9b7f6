"""What the tests on two directors share."""

import pytest

from tests.helpers.pair import Pair


@pytest.fixture
def pair(built: Pair) -> Pair:
    """The pair that a module built, settled: each test finds it as the first one did."""
    built.settle()
    return built
