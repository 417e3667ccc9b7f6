"""How fast and how safely zones travel: `./dev bench sync`, two real named, a real rsyncd, two `ns7 run` on loopback.

A time is what an operator would stop: from the call of `ns7 refresh` until the other server answers with the new
serial, asked every few milliseconds.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import goals
from benchmarks.lab import Lab, LabError
from benchmarks.report import at_most, spread, table
from benchmarks.udp import Options, Run
from tests.helpers.ports import free_port
from tests.helpers.synced import Hosts, running
from tests.helpers.zones import HOST, zone_text

ZONES, MANY = 200, 2_000
RECORDS = 500
EDITS = 10
POLL = 2.0
RELOADS, QPS = 50, 1_000


def one_edit(hosts: Hosts) -> float:
    """Seconds from the call of `ns7 refresh` until the other server serves the edit."""
    return until_served(hosts, hosts.edit())


def until_served(hosts: Hosts, serial: int) -> float:
    """The same for an edit that is made already."""
    started = time.monotonic()
    calling = hosts.start_refresh()
    try:
        while hosts.field.puller.serial("z0.example") != serial:
            if time.monotonic() - started > 60:
                raise LabError("an edit was not served within a minute")
            time.sleep(0.005)
        return time.monotonic() - started
    finally:
        calling.wait(30)


def notified(lab: Lab, run: Run, _: Options) -> list[str]:
    """One changed zone of 200, with NOTIFY."""
    with running(folder(lab, "notify"), ZONES) as hosts:
        hosts.refresh("--wait")
        return timed(run, f"one of {ZONES} zones, with NOTIFY", [one_edit(hosts) for _ in range(EDITS)],
                     goals.SYNC_NOTIFY)


def polled(lab: Lab, run: Run, _: Options) -> list[str]:
    """The same when no NOTIFY arrives: the poll finds it."""
    deaf = [f"{HOST}:{free_port(HOST)}"]
    with running(folder(lab, "poll"), ZONES, poll=f"{POLL:g}s", pullers=deaf) as hosts:
        hosts.refresh(code=1)
        time.sleep(2 * POLL)
        return timed(run, f"one of {ZONES} zones, found by a poll each {POLL:g} s",
                     [one_edit(hosts) for _ in range(EDITS)], goals.Bar(POLL + goals.SYNC_POLL_MORE))


def many(lab: Lab, run: Run, _: Options) -> list[str]:
    """One changed zone of 2,000 with 500 records each; no other one is loaded."""
    with running(folder(lab, "many"), 0, timeout="120s", serve_timeout="60s") as hosts:
        publisher = hosts.field.publisher
        for number in range(MANY):
            publisher.add(f"z{number}.example", records=RECORDS)
        publisher.write_conf()
        publisher.order("reconfig")
        started = time.monotonic()
        hosts.refresh("--wait", "--timeout", "200")
        print(f"the first generation of {MANY:,} zones: {time.monotonic() - started:.1f} s", flush=True)
        loads = hosts.field.puller.loads()
        times = []
        for _edit in range(EDITS):
            serial = publisher.next_serial("z0.example")
            publisher.file("z0.example").write_text(zone_text("z0.example", serial, RECORDS))
            times.append(until_served(hosts, serial))
        others = hosts.field.puller.loads() - loads - EDITS
        run.goals.append(at_most("zones loaded beside the changed one", others, goals.Bar(0), "", 0))
        return timed(run, f"one of {MANY:,} zones of {RECORDS} records", times, goals.SYNC_MANY)


def loaded(lab: Lab, run: Run, _: Options) -> list[str]:
    """1,000 queries a second to the puller's named through 50 generations: none lost, none failed."""
    if shutil.which("dnsperf") is None:
        raise LabError("dnsperf is not installed")
    place = folder(lab, "load")
    with running(place, ZONES) as hosts:
        hosts.refresh("--wait")
        questions = place / "questions"
        questions.write_text("".join(f"h{number % 20}.z{number % ZONES}.example A\n" for number in range(4 * ZONES)))
        dnsperf = subprocess.Popen(
            ["dnsperf", "-s", HOST, "-p", str(hosts.field.puller.port), "-d", str(questions), "-Q", str(QPS),
             "-l", "600"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            for _reload in range(RELOADS):
                one_edit(hosts)
        finally:
            dnsperf.send_signal(2)
            said = dnsperf.communicate(timeout=30)[0]
        sent, lost = (int(re.search(rf"Queries {word}:\s+(\d+)", said)[1]) for word in ("sent", "lost"))  # type: ignore[index]
        codes = {code: int(count) for code, count in re.findall(r"([A-Z]+) (\d+) \(", said)}
        bad = sum(count for code, count in codes.items() if code != "NOERROR")
        run.details.append({"row": "load", "sent": sent, "lost": lost, "codes": codes})
        run.goals += [at_most(f"lost of {sent:,} queries through {RELOADS} generations", lost, goals.Bar(0), "", 0),
                      at_most("of them not NOERROR", bad, goals.Bar(0), "", 0)]
        return [f"{QPS:,} qps through {RELOADS} generations", f"{lost} lost, {bad} failed of {sent:,}"]


def killed(lab: Lab, run: Run, options: Options) -> list[str]:
    """SIGKILL at random moments of pulls and refreshes; each kill's moment is its own, so a run may be a piece."""
    mixes, last = 0, options.first_kill + options.kills
    with running(folder(lab, "kills")) as hosts:
        hosts.refresh("--wait")
        for number in range(options.first_kill, last):
            try:
                hosts.kill_somewhere(number)
            except AssertionError as error:
                mixes += 1
                run.fail(f"after kill {number}: {error}")
    row = f"of the kills {options.first_kill} to {last - 1}, those that left no whole generation"
    run.goals.append(at_most(row, mixes, goals.Bar(0), "", 0))
    return [f"killed {options.kills} times", f"{mixes} times no whole generation"]


ROWS: dict[str, Callable[[Lab, Run, Options], list[str]]] = {
    "notify": notified, "poll": polled, "many": many, "load": loaded, "kills": killed}


def sync(lab: Lab, options: Options) -> Run:
    """All rows asked for."""
    run = Run()
    rows = []
    for name in options.rows or tuple(ROWS):
        try:
            rows.append(ROWS[name](lab, run, options))
            print(": ".join(rows[-1]), flush=True)
        except (LabError, AssertionError) as error:
            run.fail(f"{name}: {error}")
    print("\n" + table(["sync", "figure"], rows))
    return run


def timed(run: Run, row: str, times: list[float], bar: goals.Bar) -> list[str]:
    figure = spread(times)
    run.details.append({"row": row, "seconds": times})
    run.goals.append(at_most(f"{row}: slowest", max(times), bar, " s", 2))
    print(f"{row}: median {statistics.median(times):.2f} s", flush=True)
    return [row, f"{figure.text(2)} s" if figure else "-"]


def folder(lab: Lab, name: str) -> Path:
    place = lab.folder / f"sync-{name}"
    place.mkdir()
    return place
