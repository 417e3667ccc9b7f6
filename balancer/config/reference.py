"""The commented sample file and the settings page, written from the models. `python -m balancer.config.reference`
prints the page (docs/settings.md). Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple, get_origin

from pydantic.fields import FieldInfo

from balancer.config.explain import kind_of, table_of
from balancer.config.kinds import Kind
from balancer.config.model import Node, Section, Settings

_WIDTH = 100


class Setting(NamedTuple):
    """One key of a section."""

    key: str
    kind: Kind[Any]
    many: bool                      # a list of such values
    default: str | None             # as TOML; None: required, or unset
    required: bool
    examples: tuple[str, ...]       # as TOML
    description: str


class Table(NamedTuple):
    """One section: `path` ("service", "server"); `many` when it is written [[service.server]]."""

    path: tuple[str, ...]
    many: bool
    description: str
    settings: tuple[Setting, ...]

    @property
    def header(self) -> str:
        name = ".".join(self.path)
        return f"[[{name}]]" if self.many else f"[{name}]"


def tables() -> list[Table]:
    """Every section of a file in the order of its declaration, parents first."""
    found = [table for key, field in _fields(Settings) for table in _walk((key,), field)]
    return [*found, _table(("nodes", "NAME"), Node, many=False)]


def sample() -> str:
    """A file that `ns7 check` accepts as it is: what is required is set, defaults stand in comments."""
    blocks = [
        _comment("A configuration of ns7, to be checked with `ns7 check -c FILE`. Commented settings show their defaults.")
    ]
    for table in tables():
        only_comments = table.path[0] == "nodes"
        blocks.append("\n".join(_sample_table(table, only_comments)))
    return "\n\n".join(blocks) + "\n"


def settings_page() -> str:
    """The settings reference in Markdown."""
    parts = [
        "# Settings",
        "Generated from the declarations in `balancer/config/model.py` by `python -m balancer.config.reference`.",
        "One TOML file; a key that is not listed here is an error. Durations are written `\"250ms\"`, `\"2s\"`, `\"1m\"`;"
        " sizes `\"64KiB\"`, `\"16MiB\"`, `\"1GiB\"`. `ns7 check -c FILE` tells all mistakes at once,"
        " `ns7 sample-config` prints a file to start from.",
    ]
    for table in tables():
        parts += [f"## `{table.header}`", table.description, "\n".join(_page_rows(table))]
    return "\n\n".join(parts) + "\n"


def _fields(section: type[Section]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        yield field.alias or name, field


def _walk(path: tuple[str, ...], field: FieldInfo) -> Iterator[Table]:
    section = table_of(field)
    if section is None:
        return
    yield _table(path, section, many=get_origin(field.annotation) is tuple)
    for key, inner in _fields(section):
        yield from _walk((*path, key), inner)


def _table(path: tuple[str, ...], section: type[Section], many: bool) -> Table:
    settings = tuple(_setting(key, field) for key, field in _fields(section) if table_of(field) is None)
    return Table(path, many, " ".join((section.__doc__ or "").split()), settings)


def _setting(key: str, field: FieldInfo) -> Setting:
    kind = kind_of(field.annotation, field.metadata)
    assert kind is not None and field.description, f"{key} is declared without its kind or description"
    many = get_origin(field.annotation) is tuple
    required = field.is_required()
    default = None if required or field.default is None else _spell(kind, field.default, many)
    examples = tuple(_spell(kind, example, many) for example in field.examples or ())
    return Setting(key, kind, many, default, required, examples, field.description)


def _spell(kind: Kind[Any], value: Any, many: bool) -> str:
    return f"[{', '.join(kind.spell(item) for item in value)}]" if many else str(kind.spell(value))


def _sample_table(table: Table, only_comments: bool) -> Iterator[str]:
    yield _comment(table.description)
    mark = "# " if only_comments else ""
    yield mark + table.header
    for setting in table.settings:
        yield _comment(f"{setting.description} {_kind(setting)}")
        if setting.required:
            yield f"{mark}{setting.key} = {setting.examples[0]}"
        else:
            yield f"# {setting.key} = {setting.default or setting.examples[0]}"
    required = [setting for setting in table.settings if setting.required]
    for number in range(1, min((len(setting.examples) for setting in required), default=0)):
        yield f"\n{mark}{table.header}"
        for setting in required:
            yield f"{mark}{setting.key} = {setting.examples[number]}"


def _kind(setting: Setting) -> str:
    many = "list of " if setting.many else ""
    return f"({many}{setting.kind.noun}: {setting.kind.allowed})"


def _comment(text: str) -> str:
    return "\n".join(textwrap.wrap(text, _WIDTH, initial_indent="## ", subsequent_indent="## ", break_on_hyphens=False))


def _page_rows(table: Table) -> Iterator[str]:
    yield "| key | type | default | allowed | what it is |"
    yield "|---|---|---|---|---|"
    for setting in table.settings:
        kind = f"list of {setting.kind.noun}" if setting.many else setting.kind.noun
        default = "required" if setting.required else f"`{setting.default}`" if setting.default else "unset"
        yield f"| `{setting.key}` | {kind} | {default} | {setting.kind.allowed} | {setting.description} |"


if __name__ == "__main__":
    print(settings_page(), end="")
