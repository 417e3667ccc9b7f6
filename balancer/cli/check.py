"""`ns7 check`: is this configuration file right? Exit code 0, or 2 and every mistake with its line."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from balancer.config import Config
    from balancer.errors import Problem


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the grammar."""
    command = subparsers.add_parser("check", help="tell every mistake of a configuration file")
    command.add_argument("-c", "--config", metavar="FILE", required=True, help="configuration")
    command.add_argument("--node", help="which host to check (default: NS7_NODE, else the host name)")
    command.add_argument("--json", action="store_true", help="tell the result as JSON on standard output")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 when the file is right, 2 when not."""
    from balancer.config import ConfigError, load

    try:
        config = load(arguments.config, arguments.node)
    except ConfigError as error:
        _tell_problems(error.problems, arguments.json)
        return 2
    _tell_success(arguments.config, config, arguments.json)
    return 0


def _tell_problems(problems: tuple[Problem, ...], as_json: bool) -> None:
    if as_json:
        _print_json({"ok": False, "problems": [problem._asdict() for problem in problems]})
    else:
        print(*problems, sep="\n", file=sys.stderr)


def _tell_success(file: str, config: Config, as_json: bool) -> None:
    services, servers = len(config.services), sum(len(service.servers) for service in config.services)
    if as_json:
        _print_json({"ok": True, "problems": [], "services": services, "servers": servers})
    else:
        print(f"{file}: ok: {_count(services, 'service')}, {_count(servers, 'server')}")


def _print_json(result: dict[str, object]) -> None:
    import json

    print(json.dumps(result))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
