"""`ns7 alert test`, `ns7 alert ack`, `ns7 alert list`: ask the alert process through the control socket."""

from __future__ import annotations

import argparse
import json
from typing import Any

from balancer.cli import asking

TEST_TIMEOUT = 9.0          # more than the alert process takes for it, less than we wait


def commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the grammar."""
    group = subparsers.add_parser("alert", help="who is told what: try it, list and acknowledge open alerts")
    verbs = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command = verbs.add_parser("test", help="send a test to every recipient now and tell the outcome")
    asking.add_arguments(command)
    command.set_defaults(run=test)
    command = verbs.add_parser("ack", help="no more reminders of an open alert")
    command.add_argument("alert", help='id or subject of the alert, or "all"')
    asking.add_arguments(command)
    command.set_defaults(run=ack)
    command = verbs.add_parser("list", help="open alerts, queues and counters")
    asking.add_arguments(command)
    command.set_defaults(run=listing)


def test(arguments: argparse.Namespace) -> int:
    """0 when everybody was told, 1 when not."""
    outcomes = asking.request(arguments, "alert.test", timeout=TEST_TIMEOUT)
    if arguments.json:
        print(json.dumps(outcomes, indent=2))
    else:
        for each in outcomes:
            print(f"{each['target']}: {'ok' if each['ok'] else each['error']}")
    return 0 if all(each["ok"] for each in outcomes) else 1


def ack(arguments: argparse.Namespace) -> int:
    """Acknowledge; 2 when there is no such alert."""
    alerts = asking.request(arguments, "alert.ack", arguments={"alert": arguments.alert})
    print(json.dumps(alerts, indent=2) if arguments.json else "\n".join(_line(alert) for alert in alerts))
    return 0


def listing(arguments: argparse.Namespace) -> int:
    """Print what is open."""
    state = asking.request(arguments, "alert.list")
    print(json.dumps(state, indent=2) if arguments.json else "\n".join(table(state)))
    return 0


def table(state: dict[str, Any]) -> list[str]:
    """The answer to "list" as lines."""
    lines = [_line(alert) for alert in state["open"]] or ["no open alerts"]
    left = state["open_total"] - len(state["open"])
    lines += [f"and {left} more"] if left else []
    for queue in state["queues"]:
        error = f": {queue['error']}" if queue["error"] else ""
        lines.append(f"{queue['target']}: {queue['waiting']} waiting{error}")
    counters = ", ".join(f"{name} {count}" for name, count in sorted(state["counters"].items()))
    return [*lines, counters] if counters else lines


def _line(alert: dict[str, Any]) -> str:
    from balancer.alert.word import clean, moment, name_of

    state = f"flapping, {alert['state']}" if alert["flapping"] else alert["state"]
    return clean(f"{alert['id']}  {moment(alert['since'])}  {name_of(alert['kind'], alert['subject'])} is {state}"
                 f"{': ' if alert['reason'] else ''}{alert['reason']}{' (acknowledged)' if alert['acked'] else ''}")
