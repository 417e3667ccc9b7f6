"""`python -m benchmarks.drill`: break every part of a whole cluster once, and tell what it cost.

Exit code 0: all was noticed, told and over; 1: something was not, or could not be tried; 2: wrong usage; 130:
interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.drill import telling
from benchmarks.drill.faults import FAULTS, Fault
from benchmarks.drill.picture import draw
from benchmarks.drill.site import DIRECTORS, SERVERS, Site
from benchmarks.drill.trial import Drill
from benchmarks.drill.watching import RATE
from benchmarks.lab import Lab, LabError, Process, open_lab
from benchmarks.load import parse_dnsperf

PROGRAMS = {"ip": "iproute2", "nft": "nftables", "named": "bind9", "named-checkconf": "bind9-utils",
            "rsync": "rsync", "dnsperf": "dnsperf"}
PLACES = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="./dev drill", description="Break every part of a whole cluster once (root).")
    names = [fault.name for fault in FAULTS]
    top.add_argument("--only", action="append", choices=names, default=[], metavar="FAULT",
                     help=f"one fault; may be repeated: {', '.join(names)}")
    top.add_argument("--rate", type=float, default=RATE, metavar="QPS",
                     help="of the one-shot client, and as much again of dnsperf (%(default)g)")
    top.add_argument("--svg", type=Path, metavar="FILE", help="the time line (benchmarks/results/drill-DATE.svg)")
    top.add_argument("--json", action="store_true", help="all of it on standard output as JSON; progress on stderr")
    return top


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True, file=sys.stderr)


def run(lab: Lab, faults: Sequence[Fault], rate: float) -> tuple[Drill, dict[str, Any]]:
    """The drill, over, and what dnsperf says."""
    say("ns7c0 director, ns7c1 and ns7c2 name servers, a mail server, a client: starting", "")
    began = time.monotonic()
    with Site(lab) as site, Drill(site, rate) as drill:
        site.start()
        say(f": {time.monotonic() - began:.0f} s")
        dnsperf = site.start_dnsperf(rate)
        drill.load()
        for fault in faults:
            for step, outcome in drill.run(fault):
                if outcome is None:
                    say(f"{step.what:{telling.WIDTH}} ", "")
                else:
                    say(telling.summary(outcome))
        drill.finish()
        return drill, stop_dnsperf(dnsperf)


def stop_dnsperf(process: Process) -> dict[str, Any]:
    process.popen.send_signal(signal.SIGINT)        # type: ignore[union-attr]
    process.popen.wait(10)
    return asdict(parse_dnsperf(process.log.read_text()))


def main() -> int:
    options = parser().parse_args()
    missing = sorted({package for name, package in PROGRAMS.items() if not shutil.which(name, path=PLACES)})
    if os.geteuid() or missing:
        say("the drill needs root: it makes network namespaces" if os.geteuid() else
            f"not installed: apt install {' '.join(missing)}")
        return 1
    faults = [fault for fault in FAULTS if not options.only or fault.name in options.only]
    try:
        with open_lab() as lab:
            drill, dnsperf = run(lab, faults, options.rate)
    except (LabError, AssertionError) as error:
        say(f"\nthe drill could not be held: {error}")
        return 1
    except KeyboardInterrupt:
        say("\ninterrupted; every process was ended")
        return 130
    return tell(drill, dnsperf, options)


def tell(drill: Drill, dnsperf: dict[str, Any], options: argparse.Namespace) -> int:
    """All that is left to say; the exit code."""
    result, machine, held = drill.asking.result, report.machine({}), telling.bars(drill.outcomes)
    assert result is not None
    begin = drill.outcomes[0].began
    lost = drill.asking.lost(begin, time.time())
    svg = options.svg or report.RESULTS / f"drill-{time.strftime('%Y%m%d-%H%M%S')}.svg"
    svg.parent.mkdir(exist_ok=True)
    svg.write_text(draw(drill.flow.samples, SERVERS, DIRECTORS, lost, telling.spans(drill.outcomes)))
    if options.json:
        one = asdict(result)
        one["lost"] = len(result.lost)
        del one["each"], one["slowest"]
        print(json.dumps({"machine": machine, "outcomes": [asdict(each) for each in drill.outcomes], "one_shot": one,
                          "dnsperf": dnsperf, "samples": [
                              {"time": at, "qps": {f"{of} to {to}": value for (of, to), value in qps.items()}}
                              for at, qps in drill.flow.samples], "goals": [asdict(goal) for goal in held]}, indent=1))
    else:
        print(f"\n{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}\n\n"
              f"{telling.outcomes_table(drill.outcomes)}\n\n"
              f"one-shot client: {result.sent:,} sent, {len(result.lost):,} lost, {result.wrong} wrong answers; "
              f"dnsperf: {dnsperf['sent']:,} sent, {dnsperf['lost']:,} lost\n")
        if held:
            print(report.goals_table(held))
        print(f"time line: {svg}")
    for doubt in result.doubt:
        say(f"doubtful: {doubt}")
    return 1 if any(outcome.missed for outcome in drill.outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
