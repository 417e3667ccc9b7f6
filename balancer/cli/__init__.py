"""The command line: one file per group of commands; each registers itself with the parser.

`ns7 --help` loads argparse and nothing heavy: what a command needs it imports when it runs. A command of the core is
found without asking which components are installed, which takes longer than the rest of `ns7 status`.
"""

from __future__ import annotations

import argparse
from importlib import import_module

from balancer import __version__

GROUPS = {"run": ("run",), "check": ("check",), "sample": ("sample-config",), "status": ("status", "reload", "stop"),
          "server": ("server",), "demo": ("demo",), "doctor": ("doctor",)}


def parser(command: str = "") -> argparse.ArgumentParser:
    """The grammar of this command, where it is one of the core's; else the whole grammar."""
    top = argparse.ArgumentParser(prog="ns7", description="A userspace DNS load balancer.")
    top.add_argument("--version", action="version", version=f"ns7 {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    own = [group for group, words in GROUPS.items() if command in words]
    for group in own or GROUPS:
        import_module(f"balancer.cli.{group}").register(commands)
    if own:
        return top
    from balancer.component import components, resolve

    import_module("balancer.alert.commands").commands(commands)
    for record in components().values():
        if record.commands:
            resolve(record.commands)(commands)
    return top
