"""`ns7 doctor`: what is wrong on this host, each with the command that mends it."""

from __future__ import annotations

import argparse
import json

DEFAULT_FILE = "/etc/ns7/ns7.toml"
MOST = 100                  # the exit code counts the findings, up to here


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the grammar."""
    command = commands.add_parser("doctor", help="tell what is wrong on this host, and what mends it")
    command.add_argument("-c", "--config", default=DEFAULT_FILE, metavar="FILE", help="configuration (%(default)s)")
    command.add_argument("--node", help="which host of the file this is (default: NS7_NODE, else the host name)")
    command.add_argument("--json", action="store_true", help="print plain data")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; their number is the exit code."""
    from balancer.component import components, resolve
    from balancer.config import load

    config = load(arguments.config, arguments.node)
    findings = [finding for name, record in sorted(components().items()) if record.doctor
                for finding in resolve(record.doctor)(getattr(config, name))]
    if arguments.json:
        print(json.dumps([finding._asdict() for finding in findings]))
    else:
        for finding in findings:
            print(f"{finding.what}\n    {finding.fix}")
        print(f"{len(findings)} findings" if findings else "nothing found")
    return min(len(findings), MOST)
