"""The settings reference, docs/settings.md, made from the models. Run it when a setting has changed:

    python -m balancer.config.reference > docs/settings.md
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from balancer.config.model import Node, Section, file_model
from balancer.config.sample import allowed, is_table, toml

_HEAD = """\
# Settings

Made from `balancer/config/model.py` and each component's `config.py` by `python -m balancer.config.reference`; do
not edit it by hand.

One TOML file, the same on all hosts. A key that is not listed here is an error. Durations are written
like `"250ms"`, `"2s"`, `"1m"`, sizes like `"64KiB"`, `"16MiB"`, `"1GiB"`. `ns7 sample-config` prints a file
to start from; `ns7 check -c FILE` tells all mistakes of a file at once, each with its line.
"""

_NODES = """\
Without any `[nodes]` table the file describes one host. With it, the host is chosen by `--node`, else by
`NS7_NODE` in the environment, else by the short host name, and must be listed. `[nodes.NAME.SECTION]`
overrides that section for that host: tables are merged key by key, lists (`[[nodes.NAME.service]]` too)
replace.
"""


def settings_page() -> str:
    """The whole page, in Markdown."""
    parts = [_HEAD]
    for header, section in sections("", file_model()):
        parts.append(_section(header, section))
    parts.append(_section("[nodes.NAME]", Node))
    parts.append(_NODES)
    return "\n".join(parts)


def sections(prefix: str, parent: type[Section]) -> Iterator[tuple[str, type[Section]]]:
    """Each table below `parent` with its header as the file writes it, in the order of declaration."""
    for name, field in parent.model_fields.items():
        if not is_table(field):
            continue
        annotation: Any = field.annotation
        many = get_origin(annotation) is tuple
        section = next(iter(get_args(annotation)), annotation)      # of a list, or of a section that may be missing
        path = prefix + (field.alias or name)
        yield f"[[{path}]]" if many else f"[{path}]", section
        yield from sections(f"{path}.", section)


def _section(header: str, section: type[Section]) -> str:
    rows = ["| key | written as | default | allowed | meaning |", "|---|---|---|---|---|"]
    for name, field in section.model_fields.items():
        if not is_table(field):
            rows.append(
                f"| `{field.alias or name}` | {_form(field)} | {_default(field)} | {allowed(field)} "
                f"| {field.description} |"
            )
    text = "\n".join(rows)
    return f"## `{header}`\n\n{' '.join((section.__doc__ or '').split())}\n\n{text}\n"


def _form(field: FieldInfo) -> str:
    if get_origin(field.annotation) is tuple:
        return "list of strings"
    value = field.default if isinstance(field.default, str | int) else (field.examples or [""])[0]
    return "integer" if isinstance(value, int) else "string"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return "unset" if field.default is None else f"`{toml(field.default)}`"


if __name__ == "__main__":
    print(settings_page(), end="")
