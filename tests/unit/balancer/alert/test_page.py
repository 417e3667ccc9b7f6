"""docs/alerts.md says what is so."""

from __future__ import annotations

import re
from pathlib import Path

from balancer.alert import group, word
from balancer.alert.group import Item, Notice
from balancer.component import BAD, GOOD
from tests.unit.balancer.config.files import PLAIN, load_text

PAGE = (Path(__file__).parents[4] / "docs" / "alerts.md").read_text()


def test_the_example_loads() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert load_text(PLAIN + example).alerts.mail_to == ("linuxstaff@tt.co.kr",)


def test_every_state_stands_in_it() -> None:
    rows = [set(row.split(", ")) for row in re.findall(r"^\| ([a-z, ]+) \| (?:a \*\*|the \*\*)", PAGE, re.MULTILINE)]
    assert rows == [BAD, GOOD]


def test_every_fact_stands_in_it() -> None:
    item = Item(group.PROBLEM, "server", "ns7/ns7c1", "up", "down", "no answer", 1.7e9, 1.7e9)
    table = PAGE.partition("| NS7_ALERT_… |")[2].partition("\n\n")[0]
    facts = {f"NS7_ALERT_{name}" for name in re.findall(r"`([A-Z]+)`", table)}
    assert facts == set(word.environment(Notice(1, 1.7e9, (item,)), "ns7c0", 0))


def test_the_defaults_are_those() -> None:
    alerts = load_text(PLAIN).alerts
    assert (alerts.group, alerts.repeat, alerts.flap_changes, alerts.flap_period, alerts.command_timeout) == (
        2, 3600, 6, 600, 10)
    for words in ("`group` (2 s)", "`repeat` (1 h)", "`flap_changes` (6)", "`flap_period` (10 min)",
                  "`command_timeout` (10 s)", f"At most {group.MOST_ITEMS} pieces", f"{group.MOST_SUBJECTS:,} alerts"):
        assert words in PAGE
