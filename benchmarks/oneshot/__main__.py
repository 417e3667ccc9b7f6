"""`python -m benchmarks.oneshot ADDRESS:PORT`: one load, its result as JSON.

Exit code 0: it ran, whatever became of the queries; 2: wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.load import TYPES, query
from benchmarks.oneshot import Plan, run


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise argparse.ArgumentTypeError("expected ADDRESS:PORT or [ADDRESS]:PORT")
    return host.strip("[]"), int(port)


def queries(path: Path) -> list[bytes]:
    """dnsperf's query file: NAME TYPE on each line."""
    return [query((name, kind), 0) for name, kind in (line.split() for line in path.read_text().splitlines())]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.oneshot",
        description="Send each query once, at a steady rate; tell what became of it.",
    )
    top.add_argument("address", type=address, metavar="ADDRESS:PORT")
    top.add_argument("--rate", type=float, default=1000, metavar="QPS", help="queries per second (1000)")
    top.add_argument("--seconds", type=float, default=10, help="length (10)")
    top.add_argument("--sockets", type=int, default=64, metavar="N", help="source ports (64)")
    top.add_argument("--patience", type=float, default=2.0, help="seconds until an unanswered query is lost (2)")
    top.add_argument("--start", type=float, metavar="SECONDS", help="when to begin, by CLOCK_MONOTONIC (now)")
    what = top.add_mutually_exclusive_group()
    what.add_argument("--queries", type=Path, metavar="FILE", help=f"lines of NAME TYPE, types {', '.join(TYPES)}")
    what.add_argument("--name", default="www.example", help="the one name to ask for, type A (www.example)")
    top.add_argument("--tcp", action="store_true", help="over TCP, one connection per query")
    top.add_argument(
        "--connections", type=int, default=0, metavar="N", help="with --tcp: N connections that stay open, pipelined"
    )
    top.add_argument("--each", action="store_true", help="list when each query was sent and how long it took")
    return top


def main() -> int:
    options = parser().parse_args()
    plan = Plan(
        address=options.address,
        rate=options.rate,
        seconds=options.seconds,
        queries=queries(options.queries) if options.queries else [query((options.name, "A"), 0)],
        sockets=options.sockets,
        patience=options.patience,
        start=options.start,
        tcp=options.tcp,
        connections=options.connections,
        each=options.each,
    )
    print(json.dumps(asdict(run(plan))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
