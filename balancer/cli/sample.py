"""`ns7 sample-config`: a commented file to start from, of ns7 or of what stands around it."""

from __future__ import annotations

import argparse

FILES = {"systemd": "ns7.service"}


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the grammar."""
    command = subparsers.add_parser("sample-config", help="print a commented configuration file")
    command.add_argument("of", nargs="?", choices=tuple(FILES), help="systemd: its unit; without: ns7's own file")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the sample."""
    if arguments.of is not None:
        from importlib.resources import files

        print(files("balancer.config").joinpath(FILES[arguments.of]).read_text(), end="")
        return 0
    from balancer.config.sample import sample_text

    print(sample_text(), end="")
    return 0
