"""`ns7 witness`."""

import json

from balancer.cli.asking import add_arguments, request


def commands(subparsers):
    """Add the verb."""
    command = subparsers.add_parser("witness", help="ask the witness")
    add_arguments(command)
    command.set_defaults(run=run)


def run(arguments):
    """Print what it tells."""
    print(json.dumps(request(arguments, "witness.tell", arguments={"from": "command"})))
    return 0
