"""What doctor says of sync: facts in, findings out."""

from __future__ import annotations

import subprocess

import pytest

from balancer.component import SEVERITIES, Finding
from sync.findings import (
    Rndc,
    Role,
    Source,
    judge_clocks,
    judge_conf,
    judge_key,
    judge_published,
    judge_rndc,
    judge_role,
    judge_source,
)


def one(findings: object) -> Finding:
    (finding,) = list(findings)  # type: ignore[call-overload]
    assert isinstance(finding, Finding) and finding.severity in SEVERITIES
    subprocess.run(["bash", "-n"], input=finding.fix, text=True, check=True)
    return finding


def test_role_key_conf() -> None:
    right = Role("pull", (), "/s", False)
    assert list(judge_role(right)) == []
    assert "neither" in one(judge_role(right._replace(role=""))).what
    assert one(judge_role(right._replace(missing=(("rsync", "rsync"),)))).fix == "apt-get install rsync"
    assert "install -d" in one(judge_role(right._replace(store_bad=True))).fix
    assert list(judge_key(("", "/k"))) == list(judge_conf(("/n", "", ""))) == list(judge_published(False)) == []
    assert "tsig-keygen" in one(judge_key(("no key", "/k"))).fix
    assert "named-checkconf" in one(judge_conf(("/n", "not right", ""))).fix
    assert "include" in one(judge_conf(("/n", "", 'include "/s/current/named.conf";'))).fix
    one(judge_published(True))


def test_rndc() -> None:
    right = Rndc("/k", "ns7", "", "")
    assert list(judge_rndc(right)) == []
    assert "usermod -aG bind ns7" in one(judge_rndc(right._replace(unreadable="Permission denied"))).fix
    assert "rndc-confgen" in one(judge_rndc(right._replace(unreadable="No such file or directory"))).fix
    assert "does not take orders" in one(judge_rndc(right._replace(refused="connection refused"))).what


@pytest.mark.parametrize(("said", "fix"), [
    ("@ERROR: Unknown module 'ns7'", "sample-config rsyncd"),
    ("@ERROR: access denied to ns7 from x", "sample-config rsyncd"),
    ("rsync: failed to connect to 192.0.2.88: Connection refused (111)", "enable --now"), ("whatever", "--list-only")])
def test_source(said: str, fix: str) -> None:
    assert fix in one(judge_source(Source("rsync://192.0.2.88/ns7", 5, said))).fix
    assert list(judge_source(Source("rsync://192.0.2.88/ns7", 0, said))) == list(judge_source(None)) == []


def test_clocks() -> None:
    assert list(judge_clocks((("192.0.2.88", 5.0),))) == []
    assert one(judge_clocks((("192.0.2.88", 20.0),))).severity == "warning"
    assert one(judge_clocks((("192.0.2.88", -301.0),))).severity == "error"
