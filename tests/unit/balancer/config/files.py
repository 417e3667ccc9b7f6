"""Configuration texts for the tests, and loading them. Pure but for one temporary file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from balancer.config import Config, ConfigError, load
from balancer.errors import Problem

PLAIN = """\
[[service]]
name = "dns"
listen = ["127.0.0.1:5300"]
[[service.server]]
name = "a"
address = "192.0.2.1:53"
"""


def load_data(data: bytes, node: str | None = None) -> Config:
    """`load` of a file that holds `data`."""
    number, name = tempfile.mkstemp(suffix=".toml")
    try:
        with os.fdopen(number, "wb") as stream:
            stream.write(data)
        return load(name, node)
    finally:
        Path(name).unlink()


def load_text(text: str, node: str | None = None) -> Config:
    return load_data(text.encode(), node)


def problems_of(text: str, node: str | None = None) -> list[Problem]:
    """What is wrong with `text`; nothing wrong is the empty list."""
    try:
        load_text(text, node)
    except ConfigError as error:
        return list(error.problems)
    return []


def only_problem(text: str, node: str | None = None) -> Problem:
    found = problems_of(text, node)
    assert len(found) == 1, found
    return found[0]
