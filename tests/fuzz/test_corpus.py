"""Every target over its seeds and a few mutations, always the same ones; `./dev fuzz` tries for longer."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.mutation import mutate
from tests.fuzz.targets import NAMES, load

MUTATIONS = 150


@pytest.mark.parametrize("name", NAMES)
def test_small_corpus(name: str) -> None:
    target, chance = load(name), random.Random(name)
    with target.opened() as check:
        for data in target.SEEDS:
            check(data)
        for _ in range(MUTATIONS):
            check(mutate(target.SEEDS, chance))
