"""`ns7 sample-config`: a commented configuration file to start from, ns7's own or another program's."""

from __future__ import annotations

import argparse

from balancer.component import components, resolve


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the grammar."""
    names = sorted(name for record in components().values() for name in record.samples)
    command = subparsers.add_parser("sample-config", help="print a commented configuration file")
    command.add_argument("program", nargs="?", default="ns7", choices=["ns7", *names],
                         help="whose file (default: ns7's own)")
    command.add_argument("-c", "--config", metavar="FILE", help="fill in what this configuration of ns7 says")
    command.add_argument("--node", help="which host of that file this is")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the sample."""
    print(_text(arguments), end="")
    return 0


def _text(arguments: argparse.Namespace) -> str:
    for name, record in components().items():
        if arguments.program in record.samples:
            section = None
            if arguments.config is not None:
                from balancer.config import load

                section = getattr(load(arguments.config, arguments.node), name)
            return str(resolve(record.samples[arguments.program])(section))
    from balancer.config.sample import sample_text

    return sample_text()
