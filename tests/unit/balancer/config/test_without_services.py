"""A host that only runs components needs no service; a host that does nothing is a mistake."""

from __future__ import annotations

import pytest

from tests.unit.balancer.config.files import PLAIN, load_text, only_problem

SYNC = '[sync]\npublisher = "192.0.2.88"\ntsig_key_file = "/etc/ns7/sync.key"\n'


def test_no_service() -> None:
    config = load_text(SYNC)
    assert config.services == ()
    assert config.roles == ("sync",)


@pytest.mark.parametrize("text", ["[process]\nworkers = 1\n", "service = []\n"])
def test_nothing_to_do(text: str) -> None:
    problem = only_problem(text)
    assert (problem.path, problem.message) == ("service", "is missing; at least one [[service]] is needed")


def test_roles_of_a_node() -> None:
    text = PLAIN + SYNC + '[nodes.one]\n[nodes.two]\nroles = ["sync"]\n[nodes.three]\nroles = ["balancer"]\n'
    assert load_text(text, "one").roles == ("balancer", "sync")
    assert load_text(text, "two").roles == ("sync",)
    assert load_text(text, "three").roles == ("balancer",)
