"""Settings, what the checker says, what rsync's exit codes mean, samples, commands' words, metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import CollectorRegistry
from prometheus_client.exposition import generate_latest
from pydantic import ValidationError

from sync.commands import table
from sync.config import Sync
from sync.metrics import metrics, status
from sync.named import read_check
from sync.pull import failure_of
from sync.samples import rsyncd

ROOT = Path(__file__).parents[3]
NEEDED = {"publisher": "192.0.2.88", "tsig_key_file": "/etc/ns7/sync.key"}


def settings(**more: Any) -> Sync:
    return Sync.model_validate({**NEEDED, **more})


@pytest.mark.parametrize("source", ["rsync://192.0.2.88/ns7", "rsync://[2001:db8::1]:873/ns7", "host:store",
                                    "ns7@192.0.2.88:/srv/ns7", "192.0.2.88::ns7", "/srv/ns7"])
def test_sources(source: str) -> None:
    assert settings(source=source).from_where == source


@pytest.mark.parametrize("source", ["", "-e sh", "rsync://", "rsync://-x/ns7", "host", "a b:/x", "--rsh=x", 7])
def test_sources_that_are_none(source: Any) -> None:
    with pytest.raises(ValidationError):
        settings(source=source)


def test_default_source() -> None:
    assert settings().from_where == "rsync://192.0.2.88/ns7"
    assert settings(publisher="2001:db8::1").from_where == "rsync://[2001:db8::1]/ns7"


@pytest.mark.parametrize("marker", ["../x", "a/b", ".", "..", "a\nb", 1])
def test_markers_that_are_none(marker: Any) -> None:
    with pytest.raises(ValidationError):
        settings(marker=marker)


CHECKED = """\
zone good.example/IN: loaded serial 7
dns_rdata_fromtext: /x/bad.zone:5: near '1.2.3': bad dotted quad
/x/bad.zone:5: file does not end with newline
zone bad.example/IN: loading from master file /x/bad.zone failed: bad dotted quad
zone bad.example/IN: not loaded due to errors.
zone warned.example/IN: x.warned.example/MX 'y.warned.example' has no address records (A or AAAA)
zone warned.example/IN: loaded serial 4294967295
zone 0/25.2.0.192.in-addr.arpa/IN: loaded serial 1
zone ./IN: has no NS records
"""


def test_what_the_checker_says() -> None:
    checked = read_check(CHECKED)
    assert checked.serials == {"good.example": 7, "warned.example": 4294967295, "0/25.2.0.192.in-addr.arpa": 1}
    assert checked.failed.keys() == {"bad.example", "."}
    assert checked.failed["bad.example"][0].startswith("dns_rdata_fromtext")


@pytest.mark.parametrize(("code", "error", "label"), [
    (5, "", "unreachable"), (10, "", "unreachable"), (30, "", "unreachable"), (35, "", "unreachable"),
    (255, "", "unreachable"), (23, "link_stat: No such file", "partial"), (24, "vanished", "partial"),
    (3, "change_dir failed", "partial"), (11, "write failed", "disk"),
    (23, "mkstemp failed: No space left on device (28)", "disk"), (1, "", "unreachable"),
])
def test_what_rsync_means(code: int, error: str, label: str) -> None:
    failure = failure_of(code, error)
    assert (failure.label, failure.again) == (label, True)


def test_rsyncd_sample_is_filled_in() -> None:
    text = rsyncd(settings(pullers=["192.0.2.89:8053", "192.0.2.90:8053"], store="/srv/store"))
    for line in ("address = 192.0.2.88", "path = /srv/store", "hosts allow = 192.0.2.89 192.0.2.90", "read only = yes",
                 "use chroot = yes", "hosts deny = *"):
        assert line in text
    again = "ns7 sample-config rsyncd > deploy/rsyncd.conf"
    assert rsyncd(None) == (ROOT / "deploy" / "rsyncd.conf").read_text(), again


PUBLISHER = {"role": "publish", "generation": 7, "zones": 3, "time": 1.0, "state": "current", "reason": "", "pullers": [
    {"puller": "192.0.2.89:8053", "generation": 6, "state": "failed", "reason": "the disk is full", "failed": 7,
     "behind": 12.0}], "counters": {"refreshes/ok": 4}, "last_success": 2.0}
PULLER = {"role": "pull", "generation": 7, "zones": 3, "time": 1.0, "state": "retrying", "reason": "cannot be reached",
          "pullers": [], "kept": [5, 7], "bad": {"6": "a zone was wrong"}, "seen": 7,
          "counters": {"pulls/new": 2, "pulls/unreachable": 1, "refused/replayed": 3, "notifies": 5},
          "last_success": 2.0}


def test_status_as_lines() -> None:
    assert "192.0.2.89:8053: generation 6, failed, behind for 12 s: the disk is full" in table(PUBLISHER)
    lines = table(PULLER)
    assert lines[0].endswith("3 zones, retrying: cannot be reached") and lines[-1].endswith("6: a zone was wrong")


@pytest.mark.parametrize("snapshot", [{}, PUBLISHER, PULLER])
def test_metrics(snapshot: dict[str, Any]) -> None:
    class Collector:
        def collect(self) -> Any:
            return metrics(snapshot)

    registry = CollectorRegistry()
    registry.register(Collector())      # type: ignore[arg-type]
    text = generate_latest(registry).decode()
    assert status(snapshot) == snapshot
    if snapshot is PULLER:
        assert 'ns7_sync_pulls_total{outcome="unreachable"} 1.0' in text
        assert 'ns7_sync_messages_refused_total{reason="replayed"} 3.0' in text
        assert "ns7_sync_failed 1.0" in text
    if snapshot is PUBLISHER:
        assert 'ns7_sync_puller_lag_seconds{puller="192.0.2.89:8053"} 12.0' in text
