"""The command line: one file per group of commands; each registers itself with the parser.

`ns7 --help` loads argparse and nothing heavy: what a command needs it imports when it runs.
"""

from __future__ import annotations

import argparse
from importlib import import_module

from balancer import __version__
from balancer.component import components, resolve

GROUPS = ("run", "check", "sample", "status", "demo", "doctor")


def parser() -> argparse.ArgumentParser:
    """The whole grammar."""
    top = argparse.ArgumentParser(prog="ns7", description="A userspace DNS load balancer.")
    top.add_argument("--version", action="version", version=f"ns7 {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for group in GROUPS:
        import_module(f"balancer.cli.{group}").register(commands)
    import_module("balancer.alert.commands").commands(commands)
    for record in components().values():
        if record.commands:
            resolve(record.commands)(commands)
    return top
