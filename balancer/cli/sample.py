"""`ns7 sample-config`: a commented configuration file to start from."""

from __future__ import annotations

import argparse


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the grammar."""
    command = subparsers.add_parser("sample-config", help="print a commented configuration file")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the sample."""
    from balancer.config.sample import sample_text

    print(sample_text(), end="")
    return 0
