"""The commented sample file, made from the models, so that it cannot say anything else. Used by a command."""

from __future__ import annotations

import json
from textwrap import wrap
from typing import Any, get_args

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from balancer.config.model import Admin, Admit, Alerts, Config, Node, Process, Section, Server, Service, file_model
from balancer.config.values import Rule

_WIDTH = 100


def sample_text() -> str:
    """A configuration that loads; each optional setting stands in it as a comment, with its default."""
    lines = ["# ns7: sample configuration. A line #key = value shows a default; to change it, drop the #."]
    lines += _table("[[service]]", Service)
    lines += _table("[service.admit]", Admit)
    lines += _table("[[service.server]]", Server)
    lines += _table("[[service.server]]", Server, 1)
    lines += _table("[process]", Process)
    lines += _table("[admin]", Admin)
    lines += _table("[alerts]", Alerts)
    for name, field in file_model().model_fields.items():
        if name not in Config.model_fields:
            lines += _component(name, get_args(field.annotation)[0])
    lines += ["", *_comment(
        "One file may serve several hosts. Each has its own table then, chosen by --node, else NS7_NODE, "
        "else the host name; [nodes.NAME.SECTION] overrides settings for that host alone.")]
    node = _table("[nodes.ns7c0]", Node)
    lines += [line if line.startswith("#") or not line else f"#{line}" for line in node]
    return "\n".join(lines) + "\n"


def _component(name: str, model: type[Section]) -> list[str]:
    """A component's section: it runs with what it shows, so where something must be said it is a comment only."""
    lines = _table(f"[{name}]", model)
    for key, field in model.model_fields.items():
        if is_table(field):
            inner = _table(f"[[{name}.{field.alias or key}]]", get_args(field.annotation)[0])
            lines += [line if line.startswith("#") or not line else f"#{line}" for line in inner]
    if any(field.is_required() for field in model.model_fields.values()):
        lines = [line if line.startswith("#") or not line else f"#{line}" for line in lines]
    return lines


def _table(header: str, model: type[Section], number: int = 0) -> list[str]:
    """The table of `model`; of a second one of its kind only what must be said."""
    lines = ["", *([] if number else _comment(model.__doc__ or "")), header]
    for name, field in model.model_fields.items():
        key = field.alias or name
        if is_table(field) or (number and not field.is_required()):
            continue
        if not number:
            lines += _comment(f"{field.description} Allowed: {allowed(field)}.")
        lines.append(f"{'' if field.is_required() else '#'}{key} = {toml(_shown(field, number))}")
    return lines


def is_table(field: FieldInfo) -> bool:
    kinds = (field.annotation, *get_args(field.annotation))
    return any(isinstance(kind, type) and issubclass(kind, Section) for kind in kinds)


def allowed(field: FieldInfo) -> str:
    """What the setting's rule allows, in words."""
    rules = list(field.metadata)
    for kind in get_args(field.annotation):
        rules += getattr(kind, "__metadata__", ())
    words = [rule.func.allowed for rule in rules if isinstance(getattr(rule, "func", None), Rule)]
    return str(words[0])


def _shown(field: FieldInfo, number: int) -> Any:
    if field.default is PydanticUndefined or field.default is None:
        examples = field.examples or []
        return examples[number]
    return field.default


def toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in wrap(text, _WIDTH)]
