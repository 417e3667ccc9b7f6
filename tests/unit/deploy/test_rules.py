"""The alert rules: each fires when it shall, with words that help, and stays quiet when all is nearly as bad."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.helpers.need import require_program
from tests.helpers.promql import RULES

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "monitoring.md"
RULE = re.compile(r"""      - alert: (\w+)
        expr: '(.*)'
(?:        for: (\w+)
)?        labels: \{severity: (critical|warning|info)\}
        annotations:
          summary: '(.*)'
          description: '(.*)'
          runbook_url: '(.*)'
""")
STEP = 30                   # seconds between two samples
INSTANCE = {"instance": "ns7c0", "job": "ns7"}
SERVICE = {"instance": "ns7c0", "service": "dns"}
SERVER = {**SERVICE, "server": "a"}


class Rule(NamedTuple):
    """As the file has it."""

    name: str
    expression: str
    wait: str
    severity: str
    summary: str
    description: str
    link: str


class Case(NamedTuple):
    """`fires` after `minutes` with these labels and this summary; `quiet` does not. Series as promtool writes them."""

    fires: Mapping[str, str]
    quiet: Mapping[str, str]
    labels: Mapping[str, str]
    summary: str
    minutes: int = 30


def always(series: str, value: float, more: float = 0) -> dict[str, str]:
    """The same value for a day, or one that grows by `more` with each sample."""
    return {series: f"{value}+{more}x3000"}


HERE = 'instance="ns7c0", job="ns7"'
A, B = (f'{{{HERE}, service="dns", server="{name}"}}' for name in "ab")
UDP = f'{{{HERE}, service="dns", proto="udp"}}'
UP_THEN_DOWN = "1x20 0x3000"

CASES = {
    "Ns7NoServerUp": Case(
        always(f"ns7_server_up{A}", 0) | always(f"ns7_server_up{B}", 0),
        always(f"ns7_server_up{A}", 0) | always(f"ns7_server_up{B}", 1), SERVICE,
        "dns has no server that is up, says ns7c0"),
    "Ns7NotReady": Case(
        always(f"ns7_ready{{{HERE}}}", 0), {f"ns7_ready{{{HERE}}}": "1x59 0 1x20"}, INSTANCE,
        "not all workers of ns7c0 are listening"),
    "Ns7Timeouts": Case(
        always(f"ns7_queries_total{UDP}", 0, 100) | always(f"ns7_timeouts_total{UDP}", 0, 2),
        always(f"ns7_queries_total{UDP}", 0, 100) | always(f"ns7_timeouts_total{UDP}", 0, 0.5), SERVICE,
        "2% of the queries to dns are not answered in time"),
    "Ns7Overload": Case(
        always(f'ns7_dropped_total{{{HERE}, service="dns", reason="table_full"}}', 0, 60),
        always(f'ns7_dropped_total{{{HERE}, service="dns", reason="not_admitted"}}', 0, 60),
        {**SERVICE, "reason": "table_full"}, "dns drops 2 queries per second: table_full"),
    "Ns7SocketDrops": Case(
        always(f'ns7_socket_drops_total{{{HERE}, service="dns", listen="192.0.2.90:53"}}', 0, 3),
        always(f'ns7_socket_drops_total{{{HERE}, service="dns", listen="192.0.2.90:53"}}', 7),
        {**SERVICE, "listen": "192.0.2.90:53"}, "the kernel drops queries at 192.0.2.90:53 of ns7c0"),
    "Ns7TcpFull": Case(
        always(f'ns7_tcp_closed_total{{{HERE}, service="dns", reason="per_client"}}', 0, 60),
        always(f'ns7_tcp_closed_total{{{HERE}, service="dns", reason="client"}}', 0, 60),
        {**SERVICE, "reason": "per_client"}, "dns turns TCP clients away: per_client"),
    "Ns7WorkersRestart": Case(
        {f"ns7_worker_restarts_total{{{HERE}}}": "0x35 1x5 2x5 3x5 4x20"},
        {f"ns7_worker_restarts_total{{{HERE}}}": "0x40 1x100"}, INSTANCE,
        "workers of ns7c0 die again and again"),
    "Ns7ServerDown": Case(
        {f"ns7_server_up{A}": UP_THEN_DOWN}, {f"ns7_server_up{A}": "1x58 0x1 1x100"}, {**SERVER, "job": "ns7"},
        "dns/a is down, says ns7c0"),
    "Ns7OneServerLeft": Case(
        always(f"ns7_server_up{A}", 0) | always(f"ns7_server_up{B}", 1), always(f"ns7_server_up{A}", 1), SERVICE,
        "only one server of dns is up"),
    "Ns7ServerSlow": Case(
        always(f'ns7_server_latency_seconds_bucket{{{HERE}, service="dns", server="a", le="0.25"}}', 0, 98)
        | always(f'ns7_server_latency_seconds_bucket{{{HERE}, service="dns", server="a", le="0.5"}}', 0, 100)
        | always(f'ns7_server_latency_seconds_bucket{{{HERE}, service="dns", server="a", le="+Inf"}}', 0, 100),
        always(f'ns7_server_latency_seconds_bucket{{{HERE}, service="dns", server="a", le="0.25"}}', 0, 100)
        | always(f'ns7_server_latency_seconds_bucket{{{HERE}, service="dns", server="a", le="+Inf"}}', 0, 100), SERVER,
        "dns/a takes 375ms for its slowest hundredth of answers"),
    "Ns7ServerErrors": Case(
        always(f'ns7_server_answers_total{{{HERE}, service="dns", server="a", rcode="NOERROR"}}', 0, 50)
        | always(f'ns7_server_answers_total{{{HERE}, service="dns", server="a", rcode="REFUSED"}}', 0, 50),
        always(f'ns7_server_answers_total{{{HERE}, service="dns", server="a", rcode="NXDOMAIN"}}', 0, 90)
        | always(f'ns7_server_answers_total{{{HERE}, service="dns", server="a", rcode="REFUSED"}}', 0, 10), SERVER,
        "50% of the answers of dns/a are SERVFAIL or REFUSED"),
    "Ns7ForgedAnswers": Case(
        always(f'ns7_server_ignored_total{{{HERE}, service="dns", server="a", reason="unknown_id"}}', 0, 600),
        always(f'ns7_server_ignored_total{{{HERE}, service="dns", server="a", reason="late"}}', 0, 600), SERVER,
        "20 messages per second claim to come from a and answer nothing"),
    "Ns7DrainForgotten": Case(
        always(f"ns7_live_changes{{{HERE}}}", 2), {f"ns7_live_changes{{{HERE}}}": "2x2600 0x120 1x300"}, INSTANCE,
        "2 live changes hold on ns7c0 for a day", 24 * 60),
    "Ns7NobodyActive": Case(
        always(f"ns7_failover_active{{{HERE}}}", 0), always(f"ns7_failover_active{{{HERE}}}", 1)
        | always('ns7_failover_active{instance="ns7c1", job="ns7"}', 0), {"job": "ns7"},
        "no director holds the virtual address"),
    "Ns7TwoActive": Case(
        always(f"ns7_failover_active{{{HERE}}}", 1) | always('ns7_failover_active{instance="ns7c1", job="ns7"}', 1),
        always(f"ns7_failover_active{{{HERE}}}", 1) | always('ns7_failover_active{instance="ns7c1", job="ns7"}', 0),
        {"job": "ns7"}, "2 directors hold the virtual address at once"),
    "Ns7NoStandby": Case(
        always(f"ns7_failover_active{{{HERE}}}", 1) | always(f"ns7_failover_directors_heard{{{HERE}}}", 0),
        always(f"ns7_failover_active{{{HERE}}}", 0) | always(f"ns7_failover_directors_heard{{{HERE}}}", 0), INSTANCE,
        "nobody stands by for ns7c0"),
    "Ns7DirectorUnfit": Case(
        always(f"ns7_failover_fit{{{HERE}}}", 0), always(f"ns7_failover_fit{{{HERE}}}", 1), INSTANCE,
        "ns7c0 cannot serve"),
    "Ns7Flapping": Case(
        {f"ns7_failover_transitions_total{{{HERE}}}": "1x35 2 3 4 5 6 7x200"},
        {f"ns7_failover_transitions_total{{{HERE}}}": "1x35 2 3x200"}, INSTANCE,
        "the virtual address comes and goes at ns7c0"),
    "Ns7ZoneBehind": Case(
        always(f'ns7_zone_behind_seconds{{{HERE}, zone="z.example", server="dns/a"}}', 600),
        always(f'ns7_zone_behind_seconds{{{HERE}, zone="z.example", server="dns/a"}}', 200),
        {"zone": "z.example", "server": "dns/a"}, "z.example on dns/a is behind the master for 10m 0s"),
    "Ns7MasterSilent": Case(
        always(f"ns7_health_master_up{{{HERE}}}", 0), {f"ns7_health_master_up{{{HERE}}}": "1x50 0x8 1x100"}, INSTANCE,
        "the master that serials are compared with does not answer ns7c0"),
    "Ns7PullFailed": Case(
        always(f"ns7_sync_failed{{{HERE}}}", 1), {f"ns7_sync_failed{{{HERE}}}": "0x50 1x8 0x100"}, INSTANCE,
        "ns7c0 cannot take over the zones"),
    "Ns7PullOld": Case(
        always(f"ns7_sync_last_success_timestamp_seconds{{{HERE}}}", 60)
        | always(f'ns7_sync_pulls_total{{{HERE}, outcome="new"}}', 1),
        always(f"ns7_sync_last_success_timestamp_seconds{{{HERE}}}", 60),       # a publisher that had nothing to do
        INSTANCE, "ns7c0 has not taken over zones for 29m 0s"),
    "Ns7PullerBehind": Case(
        always(f'ns7_sync_puller_lag_seconds{{{HERE}, puller="192.0.2.89:8053"}}', 301),
        always(f'ns7_sync_puller_lag_seconds{{{HERE}, puller="192.0.2.89:8053"}}', 300),
        {**INSTANCE, "puller": "192.0.2.89:8053"}, "puller 192.0.2.89:8053 is behind for 5m 1s"),
    "Ns7Gone": Case(
        always(f"up{{{HERE}}}", 0), always('up{instance="web", job="node"}', 0), INSTANCE,
        "ns7 on ns7c0 cannot be scraped"),
    "Ns7ProcessMissing": Case(
        always(f'ns7_process_up{{{HERE}, process="health"}}', 0),
        {f'ns7_process_up{{{HERE}, process="health"}}': "1x58 0x1 1x100"}, {**INSTANCE, "process": "health"},
        "health of ns7c0 does not run"),
    "Ns7VersionsDiffer": Case(
        always(f'ns7_build_info{{{HERE}, version="1"}}', 1)
        | always('ns7_build_info{instance="ns7c1", job="ns7", version="2"}', 1),
        always(f'ns7_build_info{{{HERE}, version="1"}}', 1)
        | always('ns7_build_info{instance="ns7c1", job="ns7", version="1"}', 1), {"job": "ns7"},
        "the hosts run 2 versions of ns7", 24 * 60),
    "Ns7MailWaits": Case(
        always(f"ns7_alert_messages_waiting{{{HERE}}}", 3),
        {f"ns7_alert_messages_waiting{{{HERE}}}": "0x40 3x19 0x100"}, INSTANCE, "ns7c0 cannot tell its alerts"),
}


def rules() -> dict[str, Rule]:
    """By name."""
    return {found[0]: Rule(*found) for found in RULE.findall(RULES.read_text())}


def test_each_rule_has_its_cases_and_its_page() -> None:
    program, page = require_program("promtool", "prometheus"), PAGE.read_text()
    found = rules()
    done = subprocess.run([program, "check", "rules", str(RULES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and f"{len(found)} rules found" in done.stdout, done
    assert found.keys() == CASES.keys()
    for rule in found.values():
        assert rule.link == f"docs/monitoring.md#{rule.name.lower()}" and f"\n#### {rule.name}\n" in page


def expected(rule: Rule, case: Case) -> dict[str, Mapping[str, str]]:
    """The alert, with its templates filled in."""
    description = rule.description
    for label, value in case.labels.items():
        description = description.replace(f"{{{{ $labels.{label} }}}}", value)
    return {"exp_labels": {**case.labels, "severity": rule.severity},
            "exp_annotations": {"summary": case.summary, "description": description, "runbook_url": rule.link}}


def batches(minutes: int, step: int) -> list[dict[str, Any]]:
    """The cases that take so long as tests of promtool: those that share no metric are tried together."""
    found: list[tuple[set[str], dict[str, Any]]] = []
    for rule in rules().values():
        case = CASES[rule.name]
        if case.minutes != minutes:
            continue
        for series, alerts in ((case.fires, [expected(rule, case)]), (case.quiet, [])):
            names = {one.partition("{")[0] for one in series}
            taken, test = next((each for each in found if not each[0] & names), (set(), {
                "interval": f"{step}s", "input_series": [], "alert_rule_test": []}))
            if not taken:
                found.append((taken, test))
            taken |= names
            test["input_series"] += [{"series": one, "values": values} for one, values in series.items()]
            test["alert_rule_test"].append({"eval_time": f"{minutes}m", "alertname": rule.name, "exp_alerts": alerts})
    return [test for _, test in found]


@pytest.mark.parametrize("minutes", sorted({case.minutes for case in CASES.values()}))
def test_they_fire_and_stay_quiet(minutes: int, tmp_path: Path) -> None:
    program, file = require_program("promtool", "prometheus"), tmp_path / "test.yml"
    step = max(STEP, minutes)               # samples come each 30 s, evaluations sixty times
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": f"{step}s",
                                "tests": batches(minutes, STEP)}))
    done = subprocess.run([program, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
