"""One ns7 with everything that it can be, in a network namespace: what dashboard and rules use is there, and a real
Prometheus scrapes it, evaluates the rules and answers.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.helpers.cluster import Cluster
from tests.helpers.daemon import Balancer
from tests.helpers.need import require_program
from tests.helpers.promql import RULES, expressions, missing
from tests.helpers.servers import ZONE
from tests.helpers.waiting import wait_for

pytestmark = [pytest.mark.net, pytest.mark.long]

HTTP, PROMETHEUS = "127.0.0.1:8053", "127.0.0.1:9090"


@pytest.fixture(scope="module")
def ns7(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Balancer]]:
    """A director that balances, probes, holds the address and publishes zones."""
    folder = tmp_path_factory.mktemp("cluster")
    with Cluster(folder) as cluster:
        key = folder / "tsig"
        key.write_text('key "sync" { algorithm hmac-sha256; secret "Zm9yIHRoZXNlIHRlc3RzIG9ubHk="; };\n')
        key.chmod(0o600)
        cluster.serve("ns7c1")
        more = cluster.section + f"""
[health]
zones = ["{ZONE}"]
master = "s1"
[sync]
publisher = "{cluster.network['ns7c0'].address4}"
pullers = ["192.0.2.89:8053"]
tsig_key_file = "{key}"
store = "{folder}/store"
"""
        balancer = cluster.director("ns7c0", http=[HTTP], more=more)
        cluster.wait_holder("ns7c0")
        wait_for("all processes", lambda: [one["running"] for one in balancer.status()["processes"].values()] == [
            True] * 5)
        wait_for("answers", cluster.answers)
        yield cluster, balancer
        balancer.stop()


def fetch(cluster: Cluster, where: str, path: str) -> bytes:
    """What is served on that host's loopback."""
    with cluster.network["ns7c0"].entered(), urllib.request.urlopen(f"http://{where}{path}", timeout=10) as answer:
        body: bytes = answer.read()
    return body


def test_all_that_dashboard_and_rules_use_is_there(ns7: tuple[Cluster, Balancer]) -> None:
    cluster, _ = ns7

    def text() -> str:
        return fetch(cluster, HTTP, "/metrics").decode()

    # Some come with the first probe, or the first time that a puller is asked.
    with contextlib.suppress(AssertionError):
        wait_for("nothing is missing", lambda: not missing(text()), 20)
    assert missing(text()) == []
    program = require_program("promtool", "prometheus")
    done = subprocess.run([program, "check", "metrics"], input=text().encode(), capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_a_real_prometheus(ns7: tuple[Cluster, Balancer], tmp_path: Path) -> None:
    cluster, _ = ns7
    program = require_program("prometheus", "prometheus")
    config = tmp_path / "prometheus.yml"
    config.write_text(f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{RULES}]\n"
                      f"scrape_configs: [{{job_name: ns7, static_configs: [{{targets: ['{HTTP}']}}]}}]\n")
    with (tmp_path / "log").open("wb") as log:
        process = cluster.network["ns7c0"].popen(
            program, f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address={PROMETHEUS}", stdout=log, stderr=log)
    try:
        def ask(path: str) -> Any:
            try:
                return json.loads(fetch(cluster, PROMETHEUS, path))["data"]
            except OSError:
                return None

        def value(query: str) -> float | None:
            answer = ask(f"/api/v1/query?query={quote(query)}")
            return float(answer["result"][0]["value"][1]) if answer and answer["result"] else None

        wait_for("scraped", lambda: value("up") == 1.0, 30)
        assert value("ns7_failover_active") == 1.0
        assert (value('sum(ns7_server_up{service="dns"})') or 0) >= 1
        assert (value("sum(ns7_queries_total)") or 0) >= 1
        rules = wait_for("rules", lambda: (found := ask("/api/v1/rules")) and [
            rule for group in found["groups"] for rule in group["rules"] if rule["lastEvaluation"][:4] != "0001"])
        assert {rule["health"] for rule in rules} == {"ok"}, rules
        targets = ask("/api/v1/targets")["activeTargets"]
        assert [(target["health"], target["lastError"]) for target in targets] == [("up", "")]
        for where, expression in expressions():
            plain = expression.replace("$__rate_interval", "1m").replace("$__interval", "1m").replace("$instance", ".*")
            plain = plain.replace("$service", ".*").replace("$server", ".*")
            assert ask(f"/api/v1/query?query={quote(plain)}") is not None, f"{where}: {plain}"
    finally:
        process.terminate()
        process.wait(10)
