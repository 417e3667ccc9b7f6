"""`ns7 refresh` on one host, served by the other: two real named, a real rsyncd, two `ns7 run` without services."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dns.message
import dns.opcode
import pytest

from sync import notify
from tests.helpers.daemon import run_command
from tests.helpers.ports import free_port
from tests.helpers.synced import Hosts, running
from tests.helpers.waiting import wait_for
from tests.helpers.zones import HOST, KEY

SIGNED = notify.load_key(KEY)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with running(tmp_path_factory.mktemp("sync")) as both:
        both.refresh("--wait")
        yield both


def test_refresh_arrives_by_notify(hosts: Hosts) -> None:
    """The poll is an hour away: only the NOTIFY can bring it."""
    serial = hosts.edit()
    said = hosts.refresh()
    assert "1 changed (z0.example)" in said and f"{HOST}:{hosts.field.listen}: was told" in said
    hosts.wait_served(serial)


def test_refresh_waits_and_tells(hosts: Hosts) -> None:
    serial = hosts.edit()
    told = json.loads(hosts.refresh("--wait", "--json"))
    assert told["ok"] and list(told["pullers"].values()) == [""]
    assert hosts.field.puller.serial("z0.example") == serial, "it says so when it is so"
    assert "nothing changed" in hosts.refresh()


@pytest.mark.long
def test_refused_refresh_says_why(hosts: Hosts) -> None:
    text = hosts.field.publisher.file("z1.example").read_text()
    hosts.field.publisher.file("z1.example").write_text(text + "broken")
    said = hosts.refresh(code=2)
    assert "z1.example" in said and "nothing was published" in said
    hosts.field.publisher.file("z1.example").write_text(text)
    hosts.refresh()


def test_commands_on_the_wrong_host(hosts: Hosts) -> None:
    for host, words, fix in ((hosts.puller, ["refresh"], "run it on the publisher"),
                             (hosts.publisher, ["sync", "now"], "ns7 refresh"),
                             (hosts.publisher, ["sync", "rollback"], "run it on the puller")):
        done = host.sync(*words)
        assert done.returncode == 2 and fix in done.stderr, done.stderr


def test_no_ns7_runs(tmp_path: Path) -> None:
    done = run_command("refresh", "--socket", str(tmp_path / "nobody.sock"))
    assert done.returncode == 2 and "systemctl start ns7" in done.stderr and "Traceback" not in done.stderr


def test_status_diff_rollback(hosts: Hosts) -> None:
    serial = hosts.edit()
    hosts.refresh("--wait")
    assert hosts.publisher.sync("sync", "status").returncode == 0
    assert hosts.puller.sync("sync", "diff").returncode == 0
    assert hosts.puller.sync("sync", "rollback").returncode == 0
    assert hosts.field.puller.serial("z0.example") == serial - 1
    done = hosts.puller.sync("sync", "diff")
    assert done.returncode == 1 and f"{serial - 1} → {serial}" in done.stdout
    done = hosts.puller.sync("sync", "status")
    assert done.returncode == 1 and "rolled back by the operator" in done.stdout
    done = hosts.publisher.sync("sync", "status")
    assert done.returncode == 1 and "rolled back by the operator" in done.stdout
    assert hosts.puller.sync("sync", "now").returncode == 1
    assert hosts.puller.sync("sync", "now", "--force").returncode == 0
    assert hosts.field.puller.serial("z0.example") == serial
    assert hosts.puller.sync("sync", "rollback", "12345").returncode == 2


def test_host_without_services(hosts: Hosts) -> None:
    assert hosts.puller.command("status").returncode == 0
    done = run_command("check", "-c", str(hosts.puller.config))
    assert done.returncode == 0 and "0 services" in done.stdout
    done = run_command("doctor", "-c", str(hosts.puller.config))
    assert done.returncode == 0, done.stdout
    done = hosts.puller.command("reload")
    assert done.returncode == 0, done.stderr
    hosts.puller.wait_running()


@pytest.mark.long
def test_sample_for_rsyncd(hosts: Hosts) -> None:
    done = run_command("sample-config", "rsyncd", "-c", str(hosts.publisher.config))
    assert done.returncode == 0 and f"path = {hosts.field.stores['publish']}" in done.stdout


def test_strangers_on_the_port(hosts: Hosts) -> None:
    """Counted, one line, no alert, no pull; and what is signed is heard all the same."""
    before = hosts.counters(hosts.puller)
    unsigned = dns.message.make_query(notify.NAME, "SOA")
    unsigned.set_opcode(dns.opcode.NOTIFY)
    other = notify.load_key(KEY.replace("c3lu", "AAAA"))
    replayed = notify.notify(1, SIGNED).to_wire()
    for _ in range(50):
        hosts.send(unsigned.to_wire())
        hosts.send(notify.notify(1, other).to_wire())
        hosts.send(b"rubbish")
        hosts.send(replayed)
    serial = hosts.edit()
    hosts.refresh("--wait")
    assert hosts.field.puller.serial("z0.example") == serial
    after = hosts.counters(hosts.puller)
    for reason, least in (("unsigned", 50), ("wrong signature", 50), ("malformed", 50), ("replayed", 49)):
        assert after.get(f"refused/{reason}", 0) - before.get(f"refused/{reason}", 0) == least
    assert hosts.puller.output().count("messages refused") == 1
    assert hosts.puller.request("alert.list")["result"]["open_total"] == 0


def test_notifies_of_nothing_new(hosts: Hosts) -> None:
    """At most one pull a second, however many valid ones come."""
    def pulls() -> int:
        return hosts.counters(hosts.puller).get("pulls/nothing new", 0)

    before, started = pulls(), time.monotonic()
    while time.monotonic() - started < 2:
        hosts.send(notify.notify(1, SIGNED).to_wire())
        time.sleep(0.01)
    hosts.edit()
    hosts.refresh("--wait")                 # all before it has been heard
    assert pulls() - before <= time.monotonic() - started + 1


def test_many_refreshes_at_once(hosts: Hosts) -> None:
    """Each of them returns after a generation that holds its edit."""
    names = [f"z{number}.example" for number in range(3)]
    serials = {name: hosts.edit(name) for name in names}
    with ThreadPoolExecutor(5) as pool:
        told = [json.loads(each) for each in pool.map(lambda _: hosts.refresh("--wait", "--json"), range(5))]
    assert hosts.field.served() == serials
    assert len({each["generation"] for each in told}) <= 2


@pytest.mark.long
def test_publisher_that_cannot_be_reached(hosts: Hosts) -> None:
    """Old data stays served; one alert, one recovery; tried again by itself."""
    old, serial = hosts.field.puller.serial("z0.example"), hosts.edit()
    hosts.field.stop_rsyncd()
    said = hosts.refresh("--wait", "--timeout", "1", code=1)
    assert "does not serve it" in said and "cannot be reached" in said
    wait_for("an alert", lambda: hosts.puller.request("alert.list")["result"]["open_total"] == 1, 20)
    assert hosts.field.puller.serial("z0.example") == old
    hosts.field.start_rsyncd()
    hosts.wait_served(serial)
    wait_for("recovery", lambda: hosts.puller.request("alert.list")["result"]["open_total"] == 0, 20)
    assert hosts.puller.output().count("→ failed") == 1


def failures(hosts: Hosts) -> int:
    """Lines of the puller's log that tell one."""
    return len(re.findall(r"sync pull: (?:\S+ → )?failed", hosts.puller.output()))


def tampered(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"forced":', b'"forced": '))


def test_failures_are_counted_and_told_once(hosts: Hosts) -> None:
    """However often it is tried: a line for each reason, one alert, old data; and the recovery is told."""
    manifest = hosts.field.stores["publish"] / "manifest"
    good, old = manifest.read_bytes(), hosts.field.served()
    before, lines = hosts.counters(hosts.puller), failures(hosts)
    harms: list[tuple[Callable[[Path], object], str]] = [(tampered, "manifest"), (Path.unlink, "partial")]
    for number, (harm, label) in enumerate(harms, 1):
        harm(manifest)
        for _ in range(4):
            done = hosts.puller.sync("sync", "now")
            assert done.returncode == 1 and done.stderr.startswith(f"{label}: "), done.stderr
        assert hosts.counters(hosts.puller)[f"pulls/{label}"] == before.get(f"pulls/{label}", 0) + 4
        assert hosts.puller.request("alert.list")["result"]["open_total"] == 1 and hosts.field.served() == old
        assert failures(hosts) == lines + number
    manifest.write_bytes(good)
    assert hosts.puller.sync("sync", "now").returncode == 0
    wait_for("recovery", lambda: hosts.puller.request("alert.list")["result"]["open_total"] == 0, 20)


@pytest.mark.long
def test_puller_that_is_behind(tmp_path: Path) -> None:
    """The publisher tells it after `max_lag`, once, and that it has caught up."""
    with running(tmp_path, max_lag="1s", poll="1s") as both:
        both.refresh("--wait")
        both.field.stop_rsyncd()
        serial = both.edit()
        both.refresh("--wait", "--timeout", "0.5", code=1)
        wait_for("an alert", lambda: both.publisher.output().count("→ stale") == 1, 20)
        assert both.publisher.request("alert.list")["result"]["open_total"] == 1
        both.field.start_rsyncd()
        both.wait_served(serial)
        wait_for("recovery", lambda: both.publisher.request("alert.list")["result"]["open_total"] == 0, 20)
        assert both.publisher.output().count("→ stale") == 1


def test_process_that_is_killed(hosts: Hosts) -> None:
    """Its successor goes on; totals stay."""
    before = hosts.counters(hosts.puller)["pulls/new"]
    os.kill(hosts.puller.sync_pid, signal.SIGKILL)
    serial = hosts.edit()
    hosts.publisher.sync("refresh")
    hosts.wait_served(serial)
    assert hosts.counters(hosts.puller)["pulls/new"] >= before


@pytest.mark.long
def test_poll_without_notify(tmp_path: Path) -> None:
    with running(tmp_path, poll="1s", pullers=[f"{HOST}:{free_port(HOST)}"]) as both:
        both.refresh(code=1)
        serial = both.edit()
        both.refresh(code=1)                # nobody hears it
        both.wait_served(serial)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_killed_anywhere(tmp_path: Path) -> None:
    """SIGKILL at random moments of pulls and refreshes: always a whole generation, no lock left."""
    with running(tmp_path) as both:
        both.refresh("--wait")
        for number in range(int(os.environ.get("NS7_KILLS", "60"))):
            both.kill_somewhere(number)
