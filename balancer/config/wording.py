"""Words for the operator: paths, values and pydantic's findings as messages. Used while loading."""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from balancer.config.model import Node, file_model
from balancer.config.positions import Path

_SHOWN_MAX = 60
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def show_path(path: Path) -> str:
    """`service[0].server[1].weight`; keys that TOML would quote are quoted."""
    words = ""
    for part in path:
        if isinstance(part, int):
            words += f"[{part}]"
        else:
            words += ("." if words else "") + (part if _BARE.fullmatch(part) else _shorten(json.dumps(part)))
    return words


def show_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, int):
        # Python refuses to print integers of thousands of digits, which TOML can write in hexadecimal.
        return str(value) if value.bit_length() <= 64 else "a huge number"
    # Not escaping would let a file's control characters reach the terminal.
    return _shorten(json.dumps(value) if isinstance(value, str) else str(value))


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX - 3] + "..."


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _keys_around(path: Path) -> list[str]:
    """The keys that the table around `path` may have."""
    model: type[BaseModel] = file_model()
    for part in path[:-1]:
        if isinstance(part, int):
            continue
        kind = _fields(model)[part]
        model = next(iter(get_args(kind)), kind)        # of a list, or of a section that may be missing
    return list(_fields(model))


def _unknown_key(path: Path, in_node: bool) -> str:
    keys = _keys_around(path)
    if len(path) == 1:
        keys += list(_fields(Node)) if in_node else ["nodes"]
    name = str(path[-1])
    close = get_close_matches(name.lower(), keys, 1) if len(name) <= _SHOWN_MAX else []
    if close:
        return f'unknown key (did you mean "{close[0]}"?)'
    return f"unknown key (known: {', '.join(keys)})"


def explain(error: ErrorDetails, path: Path, in_node: bool) -> str:
    """What is wrong at `path` of a host's document, without the value."""
    kind = error["type"]
    context = error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "extra_forbidden":
        return _unknown_key(path, in_node)
    if kind == "missing":
        table = ".".join(part for part in path if isinstance(part, str))
        needed = f"; at least one [[{table}]] is needed" if path[-1] in ("service", "server") else ""
        return f"is missing{needed}"
    if kind == "too_short":
        return f"must have at least {context['min_length']} item"
    if kind == "too_long":
        return f"must have at most {context['max_length']} items"
    if kind == "tuple_type":
        return "must be a list"
    if kind in ("model_type", "model_attributes_type"):
        return "must be a table"
    return error["msg"]
