"""`ns7 sample-config`: a commented file to start from, of ns7 or of what stands around it."""

from __future__ import annotations

import argparse

from balancer.component import components, resolve

FILES = {"systemd": "ns7.service"}


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the grammar."""
    known = sorted([*FILES, "named", *(name for record in components().values() for name in record.samples)])
    command = subparsers.add_parser("sample-config", help="print a commented configuration file")
    command.add_argument("of", nargs="?", choices=known,
                         help="named: options for BIND behind ns7; systemd: ns7's unit; without: ns7's own file")
    command.add_argument("-c", "--config", metavar="FILE", help="fill in what this configuration of ns7 says")
    command.add_argument("--node", help="which host of that file this is")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the sample."""
    print(_text(arguments), end="")
    return 0


def _text(arguments: argparse.Namespace) -> str:
    if arguments.of in FILES:
        from importlib.resources import files

        return files("balancer.config").joinpath(FILES[arguments.of]).read_text()
    from balancer.config import load

    config = load(arguments.config, arguments.node) if arguments.config is not None else None
    if arguments.of == "named":
        from balancer.config.named import sample

        return sample(config)
    for name, record in components().items():
        if arguments.of in record.samples:
            return str(resolve(record.samples[arguments.of])(getattr(config, name, None)))
    from balancer.config.sample import sample_text

    return sample_text()
