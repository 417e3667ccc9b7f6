"""`ns7 sample-config`: a commented configuration file to start from."""

from __future__ import annotations

import argparse


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("sample-config", help="print a commented configuration file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from balancer.config.reference import sample

    print(sample(), end="")
    return 0
