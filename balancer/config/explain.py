"""pydantic's list of errors in the operator's words: path, what is wrong, what is allowed. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from balancer.config import spelling
from balancer.config.kinds import Kind
from balancer.config.merging import Tree, lookup
from balancer.config.model import SECTIONS, Document, Node, Section
from balancer.config.positions import KeyPath


class Finding(NamedTuple):
    """A mistake in the merged tree; `value` as TOML spells it, None where there is nothing to show."""

    path: KeyPath
    value: str | None
    message: str


def explain(error: ValidationError, tree: Tree) -> Iterator[Finding]:
    """One finding per error; `tree` is what was validated."""
    for item in error.errors(include_url=False):
        path: KeyPath = tuple(item["loc"])
        if item["type"] == "too_short" and item["input"]:
            continue        # pydantic counts only the good entries; the bad ones are told by themselves
        if path[-1] == "[key]" and item["type"] == "value_error":
            yield Finding(path[:-1], None, str(item["ctx"]["error"]))      # a node's name, not its table
            continue
        yield Finding(path, _value(item["type"], item["input"]), _message(item, path, tree))


def _value(kind: str, raw: object) -> str | None:
    return None if kind in ("missing", "too_short", "too_long") else spelling.value(raw)


def _message(item: Any, path: KeyPath, tree: Tree) -> str:
    kind = item["type"]
    if kind == "value_error":
        return str(item["ctx"]["error"])
    if kind == "extra_forbidden":
        return _unknown(str(path[-1]), section_at(path[:-1]))
    field = _field(path)
    if kind in ("missing", "too_short"):
        if table_of(field):
            return f"at least one [[{_header(path)}]] is needed"
        allowed = allowed_by(field)
        if kind == "missing":
            return f"is missing; {allowed} is needed" if allowed else "is missing"
        return f"is empty; at least one is needed: {allowed}"
    if kind == "too_long":
        return f"has {len(lookup(tree, path))} entries; at most {item['ctx']['max_length']} are allowed"
    if kind in ("tuple_type", "model_type", "dict_type"):
        return _shape(kind, path, field)
    return str(item["msg"])


def _shape(kind: str, path: KeyPath, field: FieldInfo | None) -> str:
    if kind == "tuple_type":
        if table_of(field):
            return f"not a list of tables; write [[{_header(path)}]]"
        return f"not a list; a list is needed, each entry {allowed_by(field)}"
    return "not a table"


def _header(path: KeyPath) -> str:
    return ".".join(str(step) for step in path if isinstance(step, str))


def _unknown(key: str, section: type[Section] | None) -> str:
    if section is None:
        return "unknown key"
    known = keys_of(section)
    if section is Node:
        known = [*known, *SECTIONS]
    close = get_close_matches(key, known, n=1)
    if close:
        return f'unknown key (did you mean "{close[0]}"?)'
    return f"unknown key (allowed: {', '.join(known)})"


def keys_of(section: type[Section]) -> list[str]:
    """The keys a file may write in `section`."""
    return [field.alias or name for name, field in section.model_fields.items()]


def field_of(section: type[Section], key: str) -> FieldInfo | None:
    return next((field for name, field in section.model_fields.items() if (field.alias or name) == key), None)


def section_at(path: KeyPath) -> type[Section] | None:
    """The model of the table at `path`."""
    section: type[Section] | None = Document
    for step in path:
        if isinstance(step, int) or section is None:
            continue
        if section is Document and step == "nodes":
            return Node
        field = field_of(section, step)
        section = table_of(field) if field else None
    return section


def kind_of(annotation: Any, metadata: list[Any]) -> Kind[Any] | None:
    """The kind in an annotation: of the value itself, of a list's entries, of an optional value."""
    for mark in metadata:
        if isinstance(mark, Kind):
            return mark
    for inner in get_args(annotation):
        kind = inner if isinstance(inner, Kind) else kind_of(inner, [])
        if kind is not None:
            return kind
    return None


def allowed_by(field: FieldInfo | None) -> str:
    kind = kind_of(field.annotation, field.metadata) if field else None
    return kind.allowed if kind else ""


def _field(path: KeyPath) -> FieldInfo | None:
    keys = [step for step in path if isinstance(step, str)]
    section = section_at(tuple(keys[:-1])) if keys else None
    return field_of(section, keys[-1]) if section else None


def table_of(field: FieldInfo | None) -> type[Section] | None:
    """The model of a setting that is a table or a list of tables."""
    annotation: Any = field.annotation if field else None
    if get_origin(annotation) is tuple:
        annotation = get_args(annotation)[0]
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None
