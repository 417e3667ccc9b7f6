"""How keys and values are written in messages: as TOML would spell them, short and printable. Pure."""

from __future__ import annotations

import re

from balancer.config.positions import KeyPath

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST = 60


def printable(text: str) -> str:
    """Control characters and surrogates escaped: a file cannot steer the terminal that shows its mistakes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def key_path(path: KeyPath) -> str:
    """service[0].server[1].weight; keys that are not bare stand in quotes."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            bare = len(step) <= _LONGEST and _BARE.fullmatch(step)
            text += ("." if text else "") + (step if bare else _quoted(step))
    return text


def value(raw: object) -> str:
    """A value of a TOML tree; tables and lists of tables only by their kind."""
    if isinstance(raw, str):
        return _quoted(raw)
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, dict):
        return "a table" if raw else "an empty table"
    if isinstance(raw, list):
        if any(isinstance(item, dict | list) for item in raw):
            return f"a list of {len(raw)}"
        return _short("[" + ", ".join(value(item) for item in raw[:_LONGEST]) + "]")
    if isinstance(raw, int):
        return _integer(raw)
    return _short(str(raw))


def _integer(number: int) -> str:
    # Beyond 4300 digits Python refuses to print a number; hexadecimal input can be longer.
    return str(number) if number.bit_length() <= 128 else "a number of more than 128 bits"


def _quoted(text: str) -> str:
    shown = printable(text[: _LONGEST + 1].replace("\\", "\\\\").replace('"', '\\"'))
    return f'"{_short(shown)}"'


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
