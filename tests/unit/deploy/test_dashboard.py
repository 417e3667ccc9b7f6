"""The dashboard is as it is made, and asks only for what there is. tests/net/test_prometheus.py asks a running ns7."""

from __future__ import annotations

import json

from balancer.admin.metrics import Exposition, encode
from balancer.admin.snapshots import Snapshots
from deploy import dashboard
from failover import metrics as failover
from health import facts as health
from sync import metrics as sync
from tests.helpers.promql import DASHBOARD, missing
from tests.helpers.table import Table

FACTS = {"socket_drops": {"dns": {"192.0.2.90:53": 0}}, "processes": {"admin": {"running": True}}}
FAILOVER = {"counts": {}, "active": True, "why": "", "priority": 200, "heard": 1}
SYNC = {"pullers": [{"puller": "192.0.2.89:8053", "behind": 0.0}]}
HEALTH = {"probes": {"udp good": 1}, "master": {"name": "a", "verdict": "up"},
          "serials": [{"zone": "z.example", "server": "dns/a", "serial": 7}]}


def test_it_is_as_it_is_made() -> None:
    again = "python deploy/dashboard.py > deploy/grafana-dashboard.json"
    assert json.loads(DASHBOARD.read_text()) == dashboard.dashboard(), f"it is old: {again}"


def test_panels_lie_side_by_side() -> None:
    panels = dashboard.dashboard()["panels"]
    places = [(panel["gridPos"]["y"] + y, panel["gridPos"]["x"] + x) for panel in panels
              for y in range(panel["gridPos"]["h"]) for x in range(panel["gridPos"]["w"])]
    assert len(places) == len(set(places)) and max(x for _, x in places) == 23
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["type"] == "row" or panel["description"] for panel in panels)


def test_all_that_dashboard_and_rules_use_is_there() -> None:
    snapshots = Snapshots([], print)
    snapshots.on_snapshot("", FACTS)
    with Table({"dns": ["a", "b"]}) as table:
        services = table.view.services()
    services[0]["servers"][0]["health"]["udp"]["latency"] = 0.001
    text = Exposition(lambda: services, snapshots).text()
    text += encode([*failover.metrics(FAILOVER), *health.metrics(HEALTH), *sync.metrics(SYNC)])
    assert missing(text.decode()) == []
