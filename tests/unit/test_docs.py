"""What the pages of docs/ and the README say of commands, alerts, files and packages is so."""

from __future__ import annotations

import argparse
import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from balancer.cli import parser
from tests.unit.balancer.config.files import load_text

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md")])
SOURCES = [path for folder in ("balancer", "health", "failover", "sync") for path in (ROOT / folder).rglob("*.py")]
# Whoever tells of something: where among its arguments the kind stands, and where the new state.
TELLERS = {r".*\.tell|.*\._on_trouble|News": (0, 3), r".*\._trouble|.*\b_?troubles\.set": (0, 2), r"Event": (1, 4)}


def commands(grammar: argparse.ArgumentParser, words: str = "ns7") -> Iterator[str]:
    """Every command, as it is typed."""
    groups = [action for action in grammar._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield words
    for group in groups:
        for verb, inner in group.choices.items():
            yield from commands(inner, f"{words} {verb}")


COMMANDS = set(commands(parser()))


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the rows of the first table after a heading."""
    text = (DOCS / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_operation_has_every_command() -> None:
    named: set[str] = set()
    for cell, *_ in rows("operation.md", "Each command"):
        first, *others = re.findall(r"`([^`]+)`", cell)
        words = re.split(r" [-\[]", first)[0]
        named |= {words, *(f"{words.rpartition(' ')[0]} {other}" for other in others)}
    assert named == COMMANDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_a_command_that_is_not_there(page: Path) -> None:
    known = {words.split()[1] for words in COMMANDS}
    groups: dict[str, set[str]] = {words.split()[1]: set() for words in COMMANDS if len(words.split()) > 2}
    for words in COMMANDS:
        if len(words.split()) > 2:
            groups[words.split()[1]].add(words.split()[2])
    for verb, second in re.findall(r"(?:`|^    \$ )ns7 ([a-z-]+)(?: ([a-z]+\b))?", page.read_text(), re.MULTILINE):
        assert verb in known, verb
        if verb in groups and second:
            assert second in groups[verb], f"{verb} {second}"


def told() -> dict[str, set[str]]:
    """What the code tells of, with those of its states that stand in it as words."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            places = next((places for pattern, places in TELLERS.items() if re.fullmatch(pattern, name)), None)
            if places is None or len(node.args) <= places[1]:
                continue
            kind_at, state_at = places
            kind = node.args[kind_at]
            if isinstance(kind, ast.Constant) and isinstance(kind.value, str):
                found[kind.value] |= {
                    one.value for one in ast.walk(node.args[state_at]) if isinstance(one, ast.Constant)
                    and isinstance(one.value, str) and one.value}
    return found


def test_operation_has_every_alert() -> None:
    page: dict[str, set[str]] = defaultdict(set)
    for cell, _, listed, *_ in rows("operation.md", "Each alert"):
        page[cell.strip("`")] |= set(re.split(r"[^a-z ]+ ?", listed))
    code = told()
    assert {"server", "order", "worker", "config", "address", "standby", "zone"} <= set(code)       # it finds them
    assert set(page) == set(code)
    for kind, states in code.items():
        assert states <= page[kind], kind


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_page_is_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(docs/([^)#]+)\)", (ROOT / "README.md").read_text()))
    assert {page.name for page in DOCS.glob("*.md")} <= linked


def test_the_installation_s_configuration_is_right_on_every_host() -> None:
    [text] = re.findall(r"```toml\n(.*?)```", (DOCS / "install.md").read_text(), re.DOTALL)
    for node in tomllib.loads(text)["nodes"]:
        config = load_text(text, node)
        assert ("failover" in config.roles) == (node != "ns7c2")
        assert ("sync" in config.roles) == (node != "ns7c0")


def test_migration_has_every_part_of_the_old_system() -> None:
    table = " ".join(cell for cell, *_ in rows("migration.md", "Every part of the old system"))
    for part in ("check.cgi", "dns.monitor", "arp.cgi", "arp.sh", "lvs start", "stop", "restart", "ipvsadm", "http_lvs",
                 "require.cgi", "refresh", "null", "rsyncd.conf", "/etc/cron.min/rsync.cgi", "rsync.sh", "mirroring"):
        assert part in table, part


def test_the_readme_names_every_package() -> None:
    """No Debian or Python package is used beyond those."""
    table = (ROOT / "README.md").read_text().partition("## What it needs")[2]
    cells = [[set(re.findall(r"[A-Za-z][A-Za-z0-9-]+", cell)) for cell in line.split("|")[2:4]]
             for line in table.splitlines() if line.startswith("|") and not line.startswith("|-")][1:]
    debian, python = (set().union(*column) for column in zip(*cells, strict=True))
    used = set(re.findall(r"\S+", " ".join(re.findall(r"_PACKAGES=\((.*?)\)", (ROOT / "dev").read_text(), re.DOTALL))))
    assert debian >= used | {"python3"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = [*project["project"]["dependencies"], *project["build-system"]["requires"],
              *(one for group in project["dependency-groups"].values() for one in group)]
    assert python >= {re.split(r"[<>=;\[ ]", one)[0] for one in listed}
