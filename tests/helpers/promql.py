"""What the dashboard and the alert rules ask for, and whether a `/metrics` has it. Pure, but for reading deploy/."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES, DASHBOARD = DEPLOY / "prometheus-rules.yml", DEPLOY / "grafana-dashboard.json"
SELECTOR = re.compile(r"\b(up|ns7_\w+)\s*(?:\{([^}]*)\})?")
GROUPED = re.compile(r"\b(?:by|on|group_left)\s*\(([^)]*)\)")
OF_PROMETHEUS = {"instance", "job", "le"}


def expressions() -> Iterator[tuple[str, str]]:
    """(where it stands, expression) of the dashboard and the rules."""
    board = json.loads(DASHBOARD.read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", target["expr"]
    for note in board["annotations"]["list"]:
        yield note["name"], note["expr"]
    for one in board["templating"]["list"]:
        if one["type"] == "query":
            yield one["name"], one["definition"].replace("label_values(", "").rpartition(",")[0]
    yield from re.findall(r"- alert: (\w+)\n\s+expr: '(.*)'", RULES.read_text())


def used(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics of an expression, with the labels that are asked of them."""
    for name, matchers in SELECTOR.findall(expression):
        yield name, set(re.findall(r"(\w+)\s*[=!]~?", matchers))


def offered(text: str) -> dict[str, set[str]]:
    """The labels of each series of a `/metrics`."""
    found: dict[str, set[str]] = {"up": set()}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def missing(text: str) -> list[str]:
    """What dashboard and rules use, and this `/metrics` has not."""
    found, lacking = offered(text), []
    for where, expression in expressions():
        labels = set(OF_PROMETHEUS)
        for name, asked in used(expression):
            if name not in found or asked - found[name] - OF_PROMETHEUS:
                lacking.append(f"{where}: {name}{sorted(asked)}")
            labels |= found.get(name, set())
        grouped = {label for group in GROUPED.findall(expression) for label in re.split(r"[,\s]+", group) if label}
        lacking += [f"{where}: by {sorted(grouped - labels)}"] if grouped - labels else []
    return lacking
