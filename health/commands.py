"""`ns7 monitor`: the grammar of mon's dns.monitor; what it does stands in monitor.py."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

WRONG_USAGE = 255           # mon's exit -1


def commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the grammar."""
    text = "check name servers once, as mon's dns.monitor does"
    command = subparsers.add_parser("monitor", help=text, description=text[0].upper() + text[1:] + ".")

    def fail(message: str) -> NoReturn:
        print(f"{command.prog}: {message}", file=sys.stderr)
        command.print_usage(sys.stderr)
        sys.exit(WRONG_USAGE)

    known = command.parse_known_args

    def parse(args: Any = None, namespace: Any = None) -> Any:
        found, rest = known(args, namespace)
        if rest:
            fail(f"unknown: {' '.join(rest)}")
        return found, rest

    command.error = fail  # type: ignore[method-assign]
    command.parse_known_args = parse  # type: ignore[method-assign]
    option = command.add_argument
    option("-zone", "--zone", action="append", default=[], metavar="ZONE", help="zone to check; may be repeated")
    option("-master", "--master", action="append", default=[], metavar="SERVER",
           help="where the zone is edited; the highest serial of all counts")
    option("-serial_threshold", "--serial_threshold", "--serial-threshold", type=int, default=0, metavar="N",
           help="how far serials may be apart (%(default)s)")
    option("-failsingle", "--failsingle", action="store_true", help="one master that fails is enough: exit code 251")
    option("-caching_only", "--caching_only", "--caching-only", action="store_true",
           help="ask -query of the servers, which need no authority")
    option("-query", "--query", action="append", default=[], metavar="NAME[:TYPE[:OTHER]]",
           help="what to ask (type A); with OTHER one of its records must be the same")
    option("-tcp", "--tcp", action="store_true", help="ask over TCP (not with -caching_only)")
    option("-retry", "--retry", type=int, default=2, metavar="N", help="how often to ask over UDP (%(default)s)")
    option("-retransmit", "--retransmit", type=float, default=0.5, metavar="S",
           help="seconds to wait the first time, twice that the next (%(default)s)")
    option("-timeout", "--timeout", type=float, default=None, metavar="S", help="seconds for one answer in all")
    option("-debug", "--debug", nargs="?", const=1, type=int, default=0, metavar="N", help="taken, and without effect")
    option("-port", "--port", type=int, default=53, metavar="N", help="where all servers listen (%(default)s)")
    option("-summary", "--summary", choices=("debian", "hosts"), default="debian",
           help="first line as Debian's mon 1.3 or, of failed hosts only, as mon 1.2 wrote it (%(default)s)")
    option("server", nargs="*", metavar="SERVER", help="name or address of a server to check")
    command.set_defaults(run=run, usage_error=fail)


def run(arguments: argparse.Namespace) -> int:
    """Check, print what failed, and return the exit code."""
    from health.monitor import monitor

    if not arguments.server:
        arguments.usage_error("at least one server must be specified")
    if arguments.caching_only:
        if not arguments.query:
            arguments.usage_error("At least one query must be specified")
    elif not arguments.master:
        arguments.usage_error("The zone master server must be specified")
    elif not arguments.zone:
        arguments.usage_error("At least one zone must be specified")
    code, text = monitor(arguments)
    if text:
        print(text)
    return code
