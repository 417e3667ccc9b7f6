"""`ns7 failover status|takeover|release|auto|cleanup` and `ns7 arp`.

All but `cleanup` ask the failover process through the control socket. That one asks nobody: it takes the addresses off
the interface when ns7 is gone (ExecStopPost).
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from balancer.cli import asking

DEFAULT_FILE = "/etc/ns7/ns7.toml"
VERBS = {
    "status": "who holds the addresses, and how the directors stand",
    "takeover": "hold the addresses here, whatever the priorities are, until `release` or `auto`",
    "release": "leave the addresses to another director until `takeover` or `auto`, or until it dies",
    "auto": "the priorities of the configuration hold again",
}


def commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the grammar."""
    group = subparsers.add_parser("failover", help="which director holds the virtual addresses; move them")
    verbs = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for verb, text in VERBS.items():
        command = verbs.add_parser(verb, help=text)
        asking.add_arguments(command)
        command.set_defaults(run=_ask, verb=verb)
    command = verbs.add_parser("cleanup", help="take the addresses off this host after ns7 has ended")
    command.add_argument("-c", "--config", default=DEFAULT_FILE, metavar="FILE", help="configuration (%(default)s)")
    command.add_argument("--node", help="which host of the file this is")
    command.set_defaults(run=cleanup)
    command = subparsers.add_parser("arp", help="tell switches and neighbours now where the virtual addresses are")
    asking.add_arguments(command)
    command.set_defaults(run=arp)


def _ask(arguments: argparse.Namespace) -> int:
    """Ask, and print how it stands then; 2 when it is refused."""
    state = asking.request(arguments, f"failover.{arguments.verb}")
    print(json.dumps(state, indent=2) if arguments.json else "\n".join(table(state)))
    return 0


def arp(arguments: argparse.Namespace) -> int:
    """Announce; 2 where the addresses are not."""
    told = asking.request(arguments, "failover.announce")
    print(json.dumps(told) if arguments.json else f"announced {', '.join(told['announced'])}")
    return 0


def cleanup(arguments: argparse.Namespace) -> int:
    """Remove what a dead ns7 has left; nothing to do is no error."""
    from balancer.config import load
    from balancer.errors import ControlError

    section: Any = getattr(load(arguments.config, arguments.node), "failover", None)
    if section is None:
        return 0
    from failover.address import Addresses
    from failover.holding import virtual

    try:
        addresses = Addresses(section.interface, virtual(section))
        removed = addresses.remove()
        addresses.close()
    except OSError as error:
        raise ControlError(f"cannot clean up {section.interface}: {error.strerror or error}") from error
    print(f"removed {', '.join(map(str, removed))}" if removed else "nothing to remove")
    return 0


def table(state: dict[str, Any]) -> list[str]:
    """The answer to "status" as lines."""
    from balancer.alert.word import clean, moment

    rest = f", wish: {state['wish']}" if state["wish"] != "auto" else ""
    lines = [f"{state['node']} is {state['state']} since {moment(state['since'])}: {', '.join(state['addresses'])} on "
             f"{state['interface']}, virtual router {state['virtual_router_id']}, priority {state['priority']}{rest}"]
    if state["why"]:
        lines.append(f"it cannot serve: {state['why']}")
    if state["peer"]:
        lines.append(f"last advert: {state['peer']}, priority {state['peer_priority']}, {state['peer_age']:.1f} s ago")
    for node, facts in state["directors"].items():
        able = "ready" if facts.get("fit") else f"cannot serve: {facts.get('why')}"
        lines.append(f"{node} is {facts.get('state')}, priority {facts.get('priority')}, "
                     f"version {facts.get('version')}, {able} ({facts['age']:.1f} s ago)")
    lines += [f"{kind} {subject} is {what}" for kind, subject, what in state["troubles"]]
    counts = ", ".join(f"{name} {count}" for name, count in sorted(state["counts"].items()))
    return [clean(line) for line in [*lines, *([counts] if counts else [])]]
