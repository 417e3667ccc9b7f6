"""`ns7 doctor`: what is wrong on this host, each with the command that mends it."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

DEFAULT_FILE = "/etc/ns7/ns7.toml"
MOST = 100                  # the exit code counts the findings, up to here
PATIENCE = 1.0              # seconds for an answer of the running ns7


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the grammar."""
    command = commands.add_parser(
        "doctor", help="tell what is wrong on this host, and what mends it",
        description="Looks at this host and changes nothing. The exit code is the number of findings, at most "
        f"{MOST}. As root it sees everything; what it could not look at is a finding, too.")
    command.add_argument("-c", "--config", default=DEFAULT_FILE, metavar="FILE", help="configuration (%(default)s)")
    command.add_argument("--node", help="which host of the file this is (default: NS7_NODE, else the host name)")
    command.add_argument("--json", action="store_true", help="print plain data")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; their number is the exit code."""
    from balancer.cli.asking import request
    from balancer.config import load
    from balancer.doctor import examine
    from balancer.errors import ControlError, Unseen

    config = load(arguments.config, arguments.node)
    running = argparse.Namespace(socket=config.admin.socket, config=None)

    def ask(verb: str) -> Any:
        try:
            return request(running, verb, PATIENCE)
        except ControlError as error:
            if isinstance(error.__cause__, PermissionError):
                raise Unseen(f"the ns7 that runs cannot be asked: {config.admin.socket} is not for you",
                             "sudo ns7 doctor") from error
            raise

    results = examine(config, ask)
    if arguments.config != DEFAULT_FILE:        # which is what the checks write in a fix: they know no other
        file = shlex.quote(str(Path(arguments.config).resolve()))
        results = [result._replace(finding=result.finding._replace(fix=result.finding.fix.replace(DEFAULT_FILE, file)))
                   for result in results]
    if arguments.json:
        print(json.dumps([{"check": result.check, **result.finding._asdict()} for result in results]))
    else:
        for check, finding in results:
            print(f"{finding.severity}: {finding.what}  [{check}]\n    {finding.why}\n    # {finding.fix}")
        print(f"{len(results)} finding{'s' * (len(results) > 1)}" if results else "nothing found")
    return min(len(results), MOST)
