"""Live changes written into the file: comments, order and everything else stay; or nothing is written."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.config import ConfigError, load
from balancer.config.editing import edited, save
from balancer.errors import ControlError
from balancer.process.live import Change, overlaid

FILE = """\
# our name servers
[[service]]
name = "dns"   # the service
listen = ["127.0.0.1:53"]
[service.admit]
transfer = ["192.0.2.0/24"] # the office

# in the hall
[[service.server]]
name = "a" # A
address = "192.0.2.1:53"
# old, but good

# in the cellar
[[service.server]]
name = "b"
address = "192.0.2.2:53"   # far away
weight = 3 # strong

# the second service
[[service]]
name = "web"
listen = ["127.0.0.1:54"]
server = [
  { name = "x", address = "192.0.2.7:53" }, # the x
  # the y
  { name = "y", address = "192.0.2.8:53" },
]

# few
[process]
workers = 1
"""
TABLE = {"name": "c", "address": "192.0.2.3:53", "weight": 2}


def change(server: str, what: str, value: Any, service: str = "dns") -> Change:
    return Change(service, server, what, value, "root", 1.0, "n1")


def lines_changed(before: str, after: str) -> tuple[list[str], list[str]]:
    """Lines that are only in the one, only in the other; empty lines do not count."""
    old, new = ([line for line in text.splitlines() if line.strip()] for text in (before, after))
    return [line for line in old if line not in new], [line for line in new if line not in old]


@pytest.mark.parametrize(("what", "gone", "come"), [
    (change("b", "weight", 7), ["weight = 3 # strong"], ["weight = 7 # strong"]),
    (change("a", "weight", 7), [], ["weight = 7"]),
    (change("a", "state", "drained"), [], ['state = "drained"']),
    (change("c", "server", TABLE), [], ['name = "c"', 'address = "192.0.2.3:53"', "weight = 2"]),
    (change("a", "server", None),
     ["# in the hall", 'name = "a" # A', 'address = "192.0.2.1:53"', "# old, but good"], []),
    (change("b", "server", None),
     ["# in the cellar", 'name = "b"', 'address = "192.0.2.2:53"   # far away', "weight = 3 # strong"], []),
    (change("x", "weight", 5, "web"), ['  { name = "x", address = "192.0.2.7:53" }, # the x'],
     ['  { name = "x", address = "192.0.2.7:53", weight = 5}, # the x']),
    (change("y", "server", None, "web"), ['  { name = "y", address = "192.0.2.8:53" },'], []),
    (change("z", "server", {"name": "z", "address": "192.0.2.9:53"}, "web"), [],
     ['  {name = "z", address = "192.0.2.9:53"},']),
])
def test_nothing_else_is_touched(what: Change, gone: list[str], come: list[str]) -> None:
    text = edited(FILE, "n1", [what])
    assert lines_changed(FILE, text) == (gone, come)
    assert tomllib.loads(text) == overlaid(tomllib.loads(FILE), [what])[0]


def test_new_setting_stands_with_its_server() -> None:
    lines = edited(FILE, "n1", [change("a", "weight", 7)]).splitlines()
    assert lines[lines.index("# old, but good") + 1] == "weight = 7"
    assert lines[lines.index("# in the cellar") + 1] == "[[service.server]]"


def test_new_server_stands_behind_the_others() -> None:
    text = edited(FILE, "n1", [change("c", "server", TABLE)])
    assert text.index('name = "b"') < text.index('name = "c"') < text.index("# the second service")
    assert "\n\n[[service.server]]\nname = \"c\"" in text


def test_there_and_back_again() -> None:
    text = edited(FILE, "n1", [change("c", "server", TABLE)])
    assert lines_changed(edited(text, "n1", [change("c", "server", None)]), FILE) == ([], [])


WORDS = ["# a word", "", "  # indented", "weight = 2", 'state = "auto"']
PIECES = st.lists(st.sampled_from(WORDS), max_size=4, unique=True)


@settings(max_examples=40)
@given(st.lists(PIECES, min_size=2, max_size=4), st.data())
def test_any_spacing(pieces: list[list[str]], data: st.DataObject) -> None:
    """Whatever stands around the servers: what is read back is what was meant, and no comment of others is lost."""
    text = '# head\n[[service]]\nname = "dns"\nlisten = ["127.0.0.1:53"]\n'
    for number, more in enumerate(pieces):
        text += f'# above {number}\n[[service.server]]\nname = "s{number}"\naddress = "192.0.2.{number + 1}:53"\n'
        text += "\n".join(more) + "\n\n"
    text += "# process\n[process]\nworkers = 1\n"
    which = data.draw(st.integers(0, len(pieces) - 1))
    what = data.draw(st.sampled_from([("weight", 9), ("state", "up"), ("server", None)]))
    one = change(f"s{which}", *what)
    after = edited(text, "n1", [one])
    assert tomllib.loads(after) == overlaid(tomllib.loads(text), [one])[0]
    for number in range(len(pieces)):
        assert (f"# above {number}\n[[service.server]]\nname = \"s{number}\"" in after) == (
            number != which or what[0] != "server")
    assert "# head\n" in after and "# process\n[process]" in after


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ns7.toml"
    path.write_text(FILE)
    path.chmod(0o640)
    return path


def test_file_is_replaced_in_one_step(file: Path) -> None:
    save(str(file), None, [change("a", "weight", 7)])
    assert load(file).services[0].servers[0].weight == 7
    assert file.stat().st_mode & 0o777 == 0o640
    assert list(file.parent.iterdir()) == [file]


def test_wrong_file_is_left_alone(file: Path) -> None:
    file.write_text(FILE.replace("workers", "workers_"))
    with pytest.raises(ConfigError, match="workers_"):
        save(str(file), None, [change("a", "weight", 7)])
    assert "workers_" in file.read_text()


def test_change_that_the_file_cannot_have(file: Path) -> None:
    with pytest.raises(ControlError, match="no server x"):
        save(str(file), None, [change("x", "weight", 7)])
    assert file.read_text() == FILE


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ControlError):
        save(str(tmp_path / "none" / "ns7.toml"), None, [change("x", "weight", 7)])


NODES = """\
[[service]]
name = "dns"
listen = ["127.0.0.1:53"]
[[service.server]]
name = "a"
address = "192.0.2.1:53"

[nodes.One]
[[nodes.Two.service]]
name = "dns"
listen = ["127.0.0.1:53"]
[[nodes.Two.service.server]]
name = "a"
address = "192.0.2.1:53"   # from two
"""


@pytest.mark.parametrize(("node", "other"), [("one", "two"), ("two", "one")])
def test_node_that_has_services_of_its_own(tmp_path: Path, node: str, other: str) -> None:
    path = tmp_path / "ns7.toml"
    path.write_text(NODES)
    save(str(path), node, [change("a", "weight", 7)])
    assert load(path, node).services[0].servers[0].weight == 7
    assert load(path, other).services[0].servers[0].weight == 1


def test_line_ends_and_mark_stay(tmp_path: Path) -> None:
    path = tmp_path / "ns7.toml"
    raw = b"\xef\xbb\xbf" + FILE.replace("\n", "\r\n").encode()
    path.write_bytes(raw)
    save(str(path), None, [change("b", "weight", 7)])
    assert path.read_bytes() == raw.replace(b"weight = 3", b"weight = 7")
