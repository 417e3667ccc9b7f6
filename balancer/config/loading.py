"""Reads a configuration file: all of its mistakes at once, each with its place, or a frozen Config.

Runs in the supervisor (start, reload, live changes) and in the commands. Raises nothing but ConfigError.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from typing import Any

from pydantic import BaseModel, ValidationError

from balancer.config.merging import Merged
from balancer.config.model import Config, Node, file_model
from balancer.config.positions import Path, Position, find_positions, nearest
from balancer.config.relations import find_contradictions
from balancer.config.values import parse_name
from balancer.config.wording import explain, show_path, show_value
from balancer.errors import ConfigError, Problem

SIZE_MAX = 4 << 20
_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class _Problems:
    """Collects mistakes; one that shows for several hosts of the file is kept once."""

    def __init__(self, file: str, positions: dict[Path, Position]) -> None:
        self.file = file
        self.positions = positions
        self.found: dict[Problem, None] = {}

    def add(self, path: Path, message: str) -> None:
        place = nearest(self.positions, path)
        self.found[Problem(self.file, *place, show_path(path), message)] = None

    def check(self, model: type[BaseModel], document: Any, merged: Merged | None, at: Path) -> Any:
        """The document as `model`, or None with its mistakes added."""
        try:
            return model.model_validate(document)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                if detail["type"] == "too_short" and detail["input"]:
                    continue            # pydantic counts good items only; the bad ones are told by themselves
                path = detail["loc"]
                place = merged.origin(path) if merged else at + path
                message = explain(detail, path, place[:1] == ("nodes",))
                if detail["type"] not in ("missing", "too_short", "too_long"):
                    message += f" (got {show_value(detail['input'])})"
                self.add(place, message)
        return None

    def raise_any(self) -> None:
        if self.found:
            raise ConfigError(sorted(self.found, key=lambda problem: (problem.line, problem.column)))


def load(path: str | os.PathLike[str], node: str | None = None) -> Config:
    """The file as it applies to `node`: the argument, else $NS7_NODE, else the short host name."""
    file = os.fsencode(path).decode("utf-8", "replace")
    text = _read(path, file)
    try:
        return _load(text, file, node)
    except RecursionError:
        raise _failure(file, "is nested too deeply") from None


def revise(config: Config, document: dict[str, Any]) -> Config:
    """This host's configuration with another document in place of the file's; ConfigError."""
    problems = _Problems("", {})
    revised = _check_host(document, None, {}, problems)
    problems.raise_any()
    assert revised is not None
    revised._node, revised._roles = config.node, config.roles
    return revised


def _failure(file: str, message: str, line: int = 0, column: int = 0) -> ConfigError:
    return ConfigError([Problem(file, line, column, "", message)])


def _read(path: str | os.PathLike[str], file: str) -> str:
    try:
        with open(path, "rb") as stream:
            data = stream.read(SIZE_MAX + 1)
    except OSError as error:
        raise _failure(file, f"cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise _failure(file, "cannot be read: not a file name") from None
    if len(data) > SIZE_MAX:
        raise _failure(file, f"is larger than {SIZE_MAX >> 20} MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[:error.start]
        line_start = before.rfind(b"\n") + 1
        column = len(before[line_start:].decode("utf-8", "replace")) + 1
        raise _failure(file, "is not UTF-8 text", before.count(b"\n") + 1, column) from None
    if not text.strip():
        raise _failure(file, "is empty")
    return text


def _parse(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except ValueError as error:         # TOMLDecodeError, or an integer too long for Python
        message = str(error)
        place = _TOML_PLACE.search(message)
        if place is None:
            raise _failure(file, f"is not TOML: {message}") from None
        if place[1]:
            line, column = int(place[1]), int(place[2])
        else:
            lines = text.replace("\r\n", "\n").split("\n")
            line, column = len(lines), len(lines[-1]) + 1
        raise _failure(file, f"is not TOML: {message[:place.start()]}", line, column) from None


def _load(text: str, file: str, wanted: str | None) -> Config:
    document = _parse(text, file)
    problems = _Problems(file, find_positions(text))
    nodes = document.pop("nodes", {})
    if not isinstance(nodes, dict):
        problems.add(("nodes",), f"must be a table (got {show_value(nodes)})")
        nodes = {}
    if not nodes:
        name, _ = _this_node(wanted)
        config = _check_host(document, None, {}, problems)
        problems.raise_any()
        assert config is not None
        config._node = name
        return config
    # The file is the same on all hosts: what is wrong for one of them is shown on each.
    hosts: dict[str, tuple[Config | None, Node | None]] = {}
    for key, table in nodes.items():
        at: Path = ("nodes", key)
        try:
            name = parse_name(key)
        except ValueError as error:
            problems.add(at, f"the name of a node {error}")
            continue
        if name in hosts:
            problems.add(at, "this node is already described (upper and lower case are the same)")
            continue
        if not isinstance(table, dict):
            problems.add(at, f"must be a table (got {show_value(table)})")
            hosts[name] = (None, None)
            continue
        own = {word: value for word, value in table.items() if word in Node.model_fields}
        over = {word: value for word, value in table.items() if word not in own}
        hosts[name] = (_check_host(document, key, over, problems), problems.check(Node, own, None, at))
    name, explicit = _this_node(wanted)
    if name not in hosts:
        problems.add(("nodes",), _unknown_node(name, explicit, hosts))
    problems.raise_any()
    config, node = hosts[name]
    assert config is not None and node is not None
    config._node, config._roles = name, node.roles
    return config


def _check_host(document: dict[str, Any], key: str | None, over: dict[str, Any],
                problems: _Problems) -> Config | None:
    merged = Merged(document, key, over)
    config: Config | None = problems.check(file_model(), merged.document, merged, ())
    if config is not None:
        config._document = merged.document
    for path, message in find_contradictions(merged.document):
        value: Any = merged.document
        for part in path:
            value = value[part]
        problems.add(merged.origin(path), f"{message} (got {show_value(value)})")
    return config


def _this_node(wanted: str | None) -> tuple[str, bool]:
    """The name of this node, and whether somebody said it."""
    if wanted is not None:
        return wanted.lower(), True
    said = os.environ.get("NS7_NODE", "")
    if said:
        return said.lower(), True
    return socket.gethostname().partition(".")[0].lower(), False


def _unknown_node(name: str, explicit: bool, hosts: dict[str, Any]) -> str:
    if explicit:
        return f"there is no node {show_value(name)} (known: {', '.join(hosts)})"
    return f"this host, {show_value(name)}, is not among the nodes; say which one it is by --node or NS7_NODE"
