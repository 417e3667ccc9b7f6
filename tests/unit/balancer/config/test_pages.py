"""The sample file and the settings reference: complete, current, and right."""

from __future__ import annotations

import re
from pathlib import Path

from balancer.config.model import Node, Section, file_model
from balancer.config.reference import sections, settings_page
from balancer.config.sample import sample_text
from tests.unit.balancer.config.files import load_text

PAGE = Path(__file__).parents[4] / "docs" / "settings.md"


def keys() -> list[str]:
    models: list[type[Section]] = [file_model(), *(section for _, section in sections("", file_model())), Node]
    return [field.alias or name for model in models for name, field in model.model_fields.items()]


def test_sample_is_right() -> None:
    config = load_text(sample_text())
    assert len(config.services[0].servers) == 2


def test_sample_shows_true_defaults() -> None:
    """With every comment sign of a setting removed it says the same, but for what has no default."""
    shown = re.sub(r"^#\[\[.*(?:\n.+)*", "", sample_text(), flags=re.MULTILINE)         # an example, not a default
    text = re.sub(r"^#(?=\S)", "", shown, flags=re.MULTILINE)
    full, short = load_text(text, "ns7c0"), load_text(sample_text())
    assert full.services[0].servers[0].source is not None
    models = [section for _, section in sections("", file_model())]
    unset = "|".join(name for model in models for name, field in model.model_fields.items() if field.default is None)
    without_a_default = re.sub(rf"^({unset}) = .*\n", "", text, flags=re.MULTILINE)
    assert load_text(without_a_default, "ns7c0").model_dump() == short.model_dump()


def test_sample_and_page_have_every_setting() -> None:
    for key in keys():
        assert re.search(rf"^#?{key} = |\[.*\b{key}\b", sample_text(), re.MULTILINE), key
        assert f"`{key}`" in settings_page() or re.search(
            rf"^## `.*\b{key}\b", settings_page(), re.MULTILINE
        ), key


def test_page_is_current() -> None:
    again = "python -m balancer.config.reference > docs/settings.md"
    assert PAGE.read_text() == settings_page(), f"docs/settings.md is old: {again}"
