"""`ns7 run`: this host's processes, in the foreground."""

from __future__ import annotations

import argparse

DEFAULT_FILE = "/etc/ns7/ns7.toml"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the grammar."""
    command = commands.add_parser("run", help="run this host's processes in the foreground")
    command.add_argument("-c", "--config", default=DEFAULT_FILE, metavar="FILE", help="configuration (%(default)s)")
    command.add_argument("--node", help="which host of the file this is (default: NS7_NODE, else the host name)")
    command.add_argument("--inherit", type=int, metavar="FD", help=argparse.SUPPRESS)      # by `ns7 upgrade` only
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until stopped; 2 when the configuration is bad or cannot be served."""
    from balancer.component import ERROR
    from balancer.config import load
    from balancer.errors import StartError
    from balancer.process import supervisor
    from balancer.process.journal import log

    try:
        if arguments.inherit is not None:
            supervisor.succeed(arguments.config, arguments.node, arguments.inherit)
        else:
            supervisor.run(load(arguments.config, arguments.node), arguments.config, arguments.node)
    except StartError as error:         # of a bad file all mistakes are told, for whoever wrote it: not in one line
        log(f"{ERROR}{error}")
        return 2
    return 0
