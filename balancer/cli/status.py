"""`ns7 status`, `ns7 reload`, `ns7 stop`: ask the running supervisor."""

from __future__ import annotations

import argparse
import json
from typing import Any

from balancer.cli.asking import add_arguments, request


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the grammar."""
    for verb, text, function in (("status", "show services, servers and counters", status),
                                 ("reload", "apply the changed configuration file", reload),
                                 ("stop", "answer what is in flight, then end", stop)):
        command = commands.add_parser(verb, help=text)
        add_arguments(command)
        command.set_defaults(run=function)


def status(arguments: argparse.Namespace) -> int:
    """Print the state."""
    result = request(arguments, "status")
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        print("\n".join(table(result)))
    return 0


def table(state: dict[str, Any]) -> list[str]:
    """The state as lines, readable to who knows `ipvsadm -Ln --stats`."""
    lines = [f"ns7 {state['version']}, up {state['uptime']:.0f} s, {len(state['workers'])} workers, "
             f"generation {state['generation']}",
             "Prot LocalAddress:Port Scheduler",
             f"  -> {'RemoteAddress:Port':24} {'Name':12} {'State':8} {'Weight':>6} {'InFlight':>8} {'Queries':>11} "
             f"{'Answers':>11} {'Timeouts':>9} {'Refused':>8}"]
    for service in state["services"]:
        lines.append(f"UDP  {', '.join(service['listen'])} {service['scheduler']}  ({service['name']}: "
                     f"{service['queries']} queries, {service['answers']} answers, {service['timeouts']} timeouts, "
                     f"{sum(service['dropped'].values())} dropped)")
        lines += [f"  -> {server['address']:24} {server['name']:12} {server['state']:8} {server['weight']:6} "
                  f"{server['inflight']:8} {server['queries']:11} {sum(server['answers'].values()):11} "
                  f"{server['timeouts']:9} {server['refusals']:8}" for server in service["servers"]]
        drops = ", ".join(f"{reason} {count}" for reason, count in service["dropped"].items() if count)
        if drops:
            lines.append(f"     dropped: {drops}")
    return lines


def reload(arguments: argparse.Namespace) -> int:
    """Apply the file; 2 and the reasons when it is refused."""
    result = request(arguments, "reload", patience=60.0)
    print(json.dumps(result) if arguments.json else "\n".join(result["changes"]) or "nothing changed")
    return 0


def stop(arguments: argparse.Namespace) -> int:
    """Tell the supervisor to end."""
    request(arguments, "stop")
    return 0
