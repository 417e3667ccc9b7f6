"""One file for several hosts: which host this is, and what its overrides change."""

from __future__ import annotations

import pytest

from tests.unit.balancer.config.files import PLAIN, load_text, only_problem, problems_of

NODES = (
    PLAIN
    + """\
[process]
workers = 2
inflight_max = 1000
[nodes.one]
[nodes.two.process]
workers = 3
[nodes.three]
roles = ["balancer"]
[[nodes.three.service]]
name = "other"
listen = ["127.0.0.3:53"]
server = [{name = "z", address = "192.0.2.9:53"}]
[nodes.three.admin]
socket = "/tmp/three.sock"
"""
)


@pytest.fixture(autouse=True)
def on_host_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NS7_NODE", raising=False)
    monkeypatch.setattr("socket.gethostname", lambda: "one.example.org")


def test_tables_merge() -> None:
    process = load_text(NODES, "two").process
    assert (process.workers, process.inflight_max) == (3, 1000)


def test_lists_replace() -> None:
    config = load_text(NODES, "three")
    assert [service.name for service in config.services] == ["other"]
    assert config.admin.socket == "/tmp/three.sock"
    assert config.process.workers == 2


def test_which_node(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_text(NODES).process.workers == 2, "the short host name"
    monkeypatch.setenv("NS7_NODE", "two")
    assert load_text(NODES).process.workers == 3, "the environment goes before the host name"
    assert load_text(NODES, "one").process.workers == 2, "the argument before both"
    monkeypatch.setenv("NS7_NODE", "")
    assert load_text(NODES).process.workers == 2


def test_unknown_node(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = only_problem(NODES, "four")
    assert all(name in problem.message for name in ("four", "one", "two", "three"))
    monkeypatch.setattr("socket.gethostname", lambda: "five")
    assert "five" in only_problem(NODES).message


def test_without_nodes_any_name_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NS7_NODE", "elsewhere")
    here, there = load_text(PLAIN), load_text(PLAIN, "somewhere")
    assert here.services == there.services
    assert (here.node, there.node) == ("elsewhere", "somewhere")


def at(text: str, line: str) -> int:
    return text.split("\n").index(line) + 1


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("[nodes.two]\nroles = []", "nodes.two.roles"),
        ('[nodes.two]\nroles = ["nobody"]', "nodes.two.roles[0]"),
        ("[nodes.two]\nfoo = 1", "nodes.two.foo"),
        ("[nodes.two]\nprocess.inflight_max = 3", "nodes.two.process.inflight_max"),
        ("[nodes.two.process]\nworker = 3", "nodes.two.process.worker"),
        ("[nodes.two]\nprocess = 3", "nodes.two.process"),
        ("[nodes.two]\nadmin.socket = 3", "nodes.two.admin.socket"),
        ("[[nodes.two.service]]\nname = 3", "nodes.two.service[0].name"),
    ],
)
def test_mistakes_point_into_the_override(line: str, path: str) -> None:
    text = f"{PLAIN}[process]\nworkers = 1\n{line}\n"
    problem = next(problem for problem in problems_of(text, "two") if problem.path == path)
    assert problem.line == at(text, line.split("\n")[1])


def test_contradiction_in_an_override_points_into_it() -> None:
    text = (
        PLAIN
        + """\
[[nodes.two.service]]
name = "x"
listen = ["127.0.0.1:53"]
[[nodes.two.service.server]]
name = "a"
address = "127.0.0.1:53"
"""
    )
    problem = only_problem(text, "two")
    assert (problem.path, problem.line) == ("nodes.two.service[0].server[0].address", 12)


def test_the_base_is_right_for_a_host_that_replaces_its_mistake() -> None:
    text = "[process]\nworkers = 1\n" + "[nodes.two.process]\nworkers = 2\n" + PLAIN
    assert load_text(text, "two").process.workers == 2


@pytest.mark.parametrize(
    "text", ["nodes = 3\n" + PLAIN, PLAIN + "[nodes]\ntwo = 3\n", PLAIN + '[nodes."a b"]\n']
)
def test_nodes_of_the_wrong_shape(text: str) -> None:
    assert any(problem.path.startswith("nodes") for problem in problems_of(text, "two"))
