"""`ns7 monitor` beside mon's own dns.monitor: the same servers, the same arguments, the same exit code and first line.

dns.monitor knows port 53 only, so both run in a network namespace. One BIND is many servers: a view per address.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import processes, wire
from tests.helpers.client import Client
from tests.helpers.daemon import COMMAND, ROOT
from tests.helpers.nameconf import at, named_options
from tests.helpers.need import missing, require_program
from tests.helpers.netns import Namespace, require_netns
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.net

MON = Path("/usr/lib/mon/mon.d/dns.monitor")
Z, Y = "z.example", "y.example"
GOOD, TWIN, OLD, LOST, DEAD, BROKEN, CACHE, WRAPPED, EMPTY, ALIAS = (f"127.0.0.{number}" for number in range(1, 11))
ZONE = "$TTL 300\n@ SOA ns h {serial} 3600 900 604800 300\n@ NS ns\nns A 127.0.0.1\nwww A 192.0.2.80\n" \
    "web A 192.0.2.80\nother A 192.0.2.81\n@ MX 10 www\n"
PARENT = "$TTL 300\n@ SOA ns h 1 3600 900 604800 300\n@ NS ns\nns A 127.0.0.1\n{record}\n"
# address(es) → zones with the text of their file; "" is a file that is not there
VIEWS = {
    f"{GOOD}; {TWIN}": {Z: ZONE.format(serial=10), Y: ZONE.format(serial=7)},
    OLD: {Z: ZONE.format(serial=9), Y: ZONE.format(serial=7)},
    LOST: {"another.example": ZONE.format(serial=1)},
    BROKEN: {Z: "", Y: ZONE.format(serial=5)},
    WRAPPED: {Z: ZONE.format(serial=2**32 - 2)},
    EMPTY: {"example": PARENT.format(record="z A 192.0.2.1")},
    ALIAS: {"example": PARENT.format(record="z CNAME w\nw A 192.0.2.1")},
}
QUICK = ["-retry", "1", "-retransmit", "1"]         # what a dead server costs the original: seconds each


def configuration(folder: Path) -> str:
    listen = at("; ".join((GOOD, TWIN, OLD, LOST, BROKEN, CACHE, WRAPPED, EMPTY, ALIAS)))
    text = named_options(folder, listen, "") + "controls { };\n"
    for number, (addresses, zones) in enumerate(VIEWS.items()):
        text += f'view "v{number}" {{ match-destinations {{ {addresses}; }}; recursion no;\n'
        for zone, records in zones.items():
            if records:
                (folder / f"{number}-{zone}").write_text(records)
            text += f'zone "{zone}" {{ type primary; file "{number}-{zone}"; }};\n'
        text += "};\n"
    return text + (f'view "cache" {{ match-destinations {{ {CACHE}; }}; recursion yes;\n'
                   f'zone "{Z}" {{ type forward; forward only; forwarders {{ {GOOD}; }}; }}; }};\n')


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    require_netns()
    program = require_program("named", "bind9")
    if not MON.exists():
        missing(f"{MON} is not there (apt install mon)")
    folder = tmp_path_factory.mktemp("views")
    (folder / "conf").write_text(configuration(folder))
    with Namespace("monitor") as namespace, (folder / "log").open("wb") as log:
        namespace.ip_lines(f"address add {one}/8 dev lo"         # named listens on what it finds
                           for one in (TWIN, OLD, LOST, BROKEN, CACHE, WRAPPED, EMPTY, ALIAS))
        process = namespace.popen(program, "-g", "-n", "1", "-c", f"{folder}/conf", stdout=log, stderr=log)

        def answers() -> bool:
            with namespace.entered(), contextlib.suppress(AssertionError, OSError), Client(f"{CACHE}:53") as client:
                return wire.rcode(client.ask(wire.query(Z, "SOA"), 0.5)) == 0        # and it knows it from now on
            return False

        wait_for("named answers", answers, 20)
        yield namespace
        processes.kill(processes.tree(process.pid))


def run(inside: Namespace, command: list[str], arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, first line, all of the output."""
    done = subprocess.run([*inside.prefix, *command, *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT,
                          check=False)
    return done.returncode, done.stdout.split("\n")[0], done.stdout


ONE = ["-zone", Z, "-master", GOOD]
SAME = {
    "all well": [*ONE, TWIN],
    "all well over tcp": [*ONE, "-tcp", TWIN],
    "the master itself": [*ONE, GOOD, TWIN],
    "two zones": ["-zone", Z, "-zone", Y, "-master", GOOD, TWIN],
    "one behind": [*ONE, TWIN, OLD],
    "one behind over tcp": [*ONE, "-tcp", OLD],
    "within the threshold": [*ONE, "-serial_threshold", "1", OLD],
    "beyond the threshold": ["-zone", Y, "-master", GOOD, "-serial_threshold", "1", BROKEN],
    "zone not there": [*ONE, LOST],
    "zone broken": [*ONE, BROKEN],
    "zone empty": [*ONE, EMPTY],
    "not authoritative": [*ONE, CACHE],
    "nobody there": [*ONE, *QUICK, TWIN, DEAD],
    "nobody there over tcp": [*ONE, *QUICK, "-tcp", DEAD, TWIN],
    "three fail": [*ONE, *QUICK, OLD, LOST, DEAD],
    "two zones fail": ["-zone", Z, "-zone", Y, "-master", GOOD, OLD, LOST, BROKEN],
    "second zone fails": ["-zone", Z, "-zone", Y, "-master", GOOD, TWIN, LOST],
    "two masters agree": [*ONE, "-master", TWIN, TWIN],
    "two masters differ": [*ONE, "-master", OLD, TWIN],
    "two masters within the threshold": [*ONE, "-master", OLD, "-serial_threshold", "1", OLD],
    "two masters, one gone": [*ONE, *QUICK, "-master", DEAD, TWIN],
    "failsingle": [*ONE, *QUICK, "-master", DEAD, "-failsingle", TWIN],
    "failsingle, refused": ["-zone", Z, "-master", LOST, "-master", GOOD, "-failsingle", TWIN],
    "no master": ["-zone", Z, *QUICK, "-master", DEAD, TWIN],
    "master has no such zone": ["-zone", Z, "-master", LOST, TWIN],
    "master without authority": ["-zone", Z, "-master", CACHE, TWIN],
    "caching": ["-caching_only", "-query", f"www.{Z}", GOOD, TWIN],
    "caching, types": ["-caching_only", "-query", f"{Z}:MX", "-query", f"www.{Z}:A", GOOD],
    "caching, same value": ["-caching_only", "-query", f"www.{Z}:A:web.{Z}", GOOD, TWIN],
    "caching, other value": ["-caching_only", "-query", f"www.{Z}:A:other.{Z}", GOOD, TWIN],
    "caching, no such name": ["-caching_only", "-query", f"nowhere.{Z}", "-query", f"www.{Z}", GOOD],
    "caching, refused": ["-caching_only", "-query", f"www.{Z}", LOST, GOOD],
    "caching, nobody there": ["-caching_only", *QUICK, "-query", f"www.{Z}", DEAD, GOOD],
    "caching, tcp does not matter": ["-caching_only", "-tcp", "-query", f"www.{Z}", GOOD],
    "two dashes": ["--zone", Z, "--master", GOOD, OLD],
    "equals signs": [f"-zone={Z}", f"--master={GOOD}", OLD],
    "no server": [*ONE],
    "no master named": ["-zone", Z, TWIN],
    "no zone named": ["-master", GOOD, TWIN],
    "no query named": ["-caching_only", GOOD],
    "no such option": [*ONE, "-nonsense", TWIN],
    "no number": [*ONE, "-retry", "often", TWIN],
}


SOON = ("all well", "one behind over tcp", "nobody there", "two zones fail", "two masters differ", "no master",
        "caching", "caching, other value", "no such option")


@pytest.mark.parametrize("case", [pytest.param(case, marks=() if case in SOON else pytest.mark.long) for case in SAME])
def test_the_same(inside: Namespace, case: str) -> None:
    theirs = run(inside, [str(MON)], SAME[case])
    ours = run(inside, [*COMMAND, "monitor"], SAME[case])
    assert ours[:2] == theirs[:2], f"mon:\n{theirs[2]}\nns7:\n{ours[2]}"


def test_improvements(inside: Namespace) -> None:
    """What docs/health.md says is different, each beside the original."""
    two_gone = ["-zone", Z, "-master", LOST, "-master", EMPTY, TWIN]
    assert run(inside, [str(MON)], two_gone)[:2] == (0, ""), "the original has lost count"
    assert run(inside, [*COMMAND, "monitor"], two_gone)[:2] == (251, f"({Z}) ")
    alias = run(inside, [str(MON)], [*ONE, ALIAS])
    assert alias[0] == 255 and alias[2] == "", "the original dies of a name that is an alias"
    assert run(inside, [*COMMAND, "monitor"], [*ONE, ALIAS])[:2] == (1, f"{ALIAS}({Z}) ")
    across = ["-zone", Z, "-master", GOOD, "-serial_threshold", "20", WRAPPED]
    assert run(inside, [str(MON)], across)[0] == 1, "plain numbers: 4294967286 apart"
    assert run(inside, [*COMMAND, "monitor"], across)[:2] == (0, ""), "RFC 1982: 12 apart"
    both = ["-zone", Z, "-zone", Y, "-master", GOOD, OLD, LOST, TWIN]
    _, _, theirs = run(inside, [str(MON)], both)
    _, _, ours = run(inside, [*COMMAND, "monitor"], both)
    assert f"Zone '{Y}': failed servers: {LOST}\n" in ours
    assert f"Zone '{Z}': failed servers: {OLD} {LOST}\n" in ours
    assert f"Zone '{Y}': failed servers: {LOST}\n" in theirs and f"Zone '{Z}': failed servers: {OLD}\n" in theirs


def test_hosts_only(inside: Namespace) -> None:
    arguments = ["-zone", Z, "-zone", Y, "-master", GOOD, "-summary", "hosts", OLD, LOST, TWIN]
    assert run(inside, [*COMMAND, "monitor"], arguments)[:2] == (2, f"{OLD} {LOST}")
