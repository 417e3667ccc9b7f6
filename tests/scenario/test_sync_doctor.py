"""What `ns7 doctor` sees of sync: a real rsyncd, real named, and a user without rights."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from balancer.component import Finding
from balancer.config import load
from balancer.doctor import examine
from balancer.errors import ControlError
from tests.helpers.daemon import run_command
from tests.helpers.need import require_program, require_root
from tests.helpers.waiting import wait_for
from tests.helpers.zones import HOST, Field, section
from tests.helpers.zones import field as make_field

NOBODY = 65534


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with make_field(tmp_path_factory.mktemp("sync") / "field", 1) as one:
        yield one


def findings(field: Field, check: str = "", pid: int = 0, **settings: Any) -> list[Finding]:
    """Of the puller; pid: of the ns7 that runs."""
    path = field.folder / "doctor.toml"
    path.write_text(section(field.settings("pull", listen=f"{HOST}:{field.listen}", **settings)) +
                    f'[admin]\nlisten = []\nsocket = "{field.folder}/none.sock"\n')

    def ask(verb: str) -> Any:
        if pid and verb == "status":
            return {"pid": pid, "processes": {}}
        raise ControlError("none runs")

    return [result.finding for result in examine(load(path), ask) if check in ("", result.check)]


def one(found: list[Finding]) -> Finding:
    assert len(found) == 1, found
    return found[0]


def test_where_zones_come_from(field: Field) -> None:
    assert findings(field) == []
    source = f"rsync://{HOST}:{field.rsync_port}/other"
    assert "Unknown module" in one(findings(field, source=source)).what
    conf = field.folder / "rsyncd.conf"
    text = conf.read_text()
    conf.write_text(text.replace(f"hosts allow = {HOST}", "hosts allow = 192.0.2.1"))
    assert "Unknown module" in one(findings(field)).what, "it says so to a host that it refuses"
    conf.write_text(text.replace(f"hosts allow = {HOST}", "hosts allow = 192.0.2.1").replace("list = no", "list = yes"))
    finding = one(findings(field))
    assert "access denied" in finding.what and "sample-config rsyncd" in finding.fix
    conf.write_text(run_command("sample-config", "rsyncd", "-c", str(field.folder / "doctor.toml")).stdout.replace(
        "uid = ns7", "uid = 0").replace("gid = ns7", "gid = 0"))
    assert findings(field) == [], "what the fix prints"
    conf.write_text(text)
    field.stop_rsyncd()
    assert "Connection refused" in one(findings(field)).what
    field.start_rsyncd()
    assert findings(field) == []


def test_keys_that_ns7_cannot_read(field: Field) -> None:
    """By the kernel's word for the user that ns7 runs as, groups included."""
    require_root("another user")
    folder = Path(tempfile.mkdtemp(prefix="ns7-doctor-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        with subprocess.Popen([require_program("setpriv", "util-linux"), f"--reuid={NOBODY}", f"--regid={NOBODY}",
                               "--clear-groups", "sleep", "60"]) as process:
            wait_for("it is nobody", lambda: f"Uid:\t{NOBODY}" in Path(f"/proc/{process.pid}/status").read_text())
            named = field.puller.rndc
            rndc = folder / "rndc.key"
            shutil.copy(named[named.index("-k") + 1], rndc)
            key = Path(shutil.copy(field.key, folder / "sync.key"))
            words = [str(rndc) if word == named[named.index("-k") + 1] else word for word in named]

            def seen() -> list[str]:
                found = findings(field, pid=process.pid, rndc=words, tsig_key_file=str(key))
                return sorted(finding.what.partition(f" {folder}")[0] for finding in found)

            for path in (rndc, key):
                path.chmod(0o640)
                os.chown(path, 0, 0)
            assert seen() == ["rndc's key", "sync.tsig_key_file"]
            for path in (rndc, key):
                os.chown(path, 0, NOBODY)
            assert seen() == []
            process.kill()
    finally:
        shutil.rmtree(folder)


def test_named_that_takes_no_orders(field: Field) -> None:
    field.puller.stop()
    assert "does not take orders" in one(findings(field)).what
    field.puller.start()
    assert findings(field) == []
