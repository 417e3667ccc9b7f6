"""`ns7 server list|add|set|drain|remove`: live changes of the servers, which hold until they are lifted."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from balancer.cli.asking import add_arguments, request
from balancer.errors import ControlError

LOOK = 0.2                  # seconds between two looks at a server that shall become empty
SERVER = "name of the server, or SERVICE/NAME"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the grammar."""
    group = commands.add_parser("server", help="list and change the servers while they are used")
    verbs = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    command = verbs.add_parser("list", help="the servers, as `ipvsadm -Ln` shows them, and who changed them")
    command.add_argument("service", nargs="?", help="of this service only")
    add_arguments(command)
    command.set_defaults(run=listing)

    command = verbs.add_parser("add", help="send queries to one more server")
    command.add_argument("server", help="its name, or SERVICE/NAME")
    command.add_argument("address", help='ADDRESS:PORT or "[IPV6]:PORT"')
    command.add_argument("--weight", type=int, metavar="N", help="share of the queries (1)")
    command.add_argument("--source", metavar="ADDRESS", help="address to send from")
    _finish(command, add)

    command = verbs.add_parser("set", help="change weight or state")
    command.add_argument("server", help=SERVER)
    command.add_argument("--weight", type=int, metavar="N", help="share of the queries; 0 = drained")
    command.add_argument("--state", choices=("up", "down", "auto"),
                         help="counts as up or down whatever health and silence say; auto: they decide, a drain ends")
    command.add_argument("--reset", action="store_true", help="lift the live changes: what the file says counts again")
    _finish(command, change)

    command = verbs.add_parser("drain", help="send nothing new there; what it has in flight is still answered")
    command.add_argument("server", help=SERVER)
    _finish(command, drain, waits=True)

    command = verbs.add_parser("remove", help="take it out; what it has in flight is still answered")
    command.add_argument("server", help=SERVER)
    _finish(command, remove, waits=True)


def _finish(command: argparse.ArgumentParser, run: Any, waits: bool = False) -> None:
    command.add_argument("--save", action="store_true", help="write the change into the configuration file too")
    if run is not add:
        command.add_argument("--force", action="store_true", help="even when no server is left that takes queries")
    if waits:
        command.add_argument("--wait", action="store_true", help="until nothing is in flight there any more")
        command.add_argument("--timeout", type=float, metavar="SECONDS", help="wait no longer; exit code 1 then")
    add_arguments(command)
    command.set_defaults(run=run)


def listing(arguments: argparse.Namespace) -> int:
    """Print the servers and the live changes."""
    state = request(arguments, "status")
    services = [service for service in state["services"] if arguments.service in (None, service["name"])]
    if not services:
        known = ", ".join(service["name"] for service in state["services"])
        raise ControlError(f"there is no service {json.dumps(arguments.service)} (there is {known})")
    changes = [change for change in state["live"] if arguments.service in (None, change["service"])]
    if arguments.json:
        servers = [{"service": service["name"], **{key: server[key] for key in (
            "name", "address", "state", "ordered", "weight", "inflight")}, "tcp_connections": server["tcp"]["open"]}
            for service in services for server in service["servers"]]
        print(json.dumps({"servers": servers, "live": changes}, indent=2))
    else:
        print("\n".join(table(services, changes)))
    return 0


def table(services: list[dict[str, Any]], changes: list[dict[str, Any]]) -> list[str]:
    """Readable to who knows `ipvsadm -Ln`; below each server what was changed live, by whom and when."""
    lines = ["Service LocalAddress:Port Scheduler",
             f"  -> {'RemoteAddress:Port':28} {'Name':16} {'State':8} {'Weight':>6} {'InFlight':>8} {'TCPConn':>7}"]
    for service in services:
        lines.append(f"{service['name']} {', '.join(service['listen'])} {service['scheduler']}")
        left = [change for change in changes if change["service"] == service["name"]]
        for server in service["servers"]:
            lines.append(f"  -> {server['address']:28} {server['name']:16} {server['state']:8} {server['weight']:6} "
                         f"{server['inflight']:8} {server['tcp']['open']:7}")
            lines += [f"       {told(change)}" for change in left if change["server"] == server["name"]]
            left = [change for change in left if change["server"] != server["name"]]
        lines += [f"     {change['server']}: {told(change)}" for change in left]
    return lines


def told(change: dict[str, Any]) -> str:
    """One live change for people."""
    if change["what"] != "server":
        what = f"{change['what']} {change['value']}"
    else:
        what = "removed" if change["value"] is None else "added"
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(change["time"]))
    return (f"{what} by {change['user']} on {change['node']}, {when}{', saved' if change['saved'] else ''}"
            f"{', does not count: ' if change['idle'] else ''}{change['idle']}")


def add(arguments: argparse.Namespace) -> int:
    """Make it known and send queries there."""
    return _change(arguments, "server.add", address=arguments.address, weight=arguments.weight,
                   source=arguments.source)


def change(arguments: argparse.Namespace) -> int:
    """Set what was asked for."""
    return _change(arguments, "server.set", weight=arguments.weight, state=arguments.state, reset=arguments.reset,
                   force=arguments.force)


def drain(arguments: argparse.Namespace) -> int:
    """Let it become empty."""
    return _change(arguments, "server.set", state="drained", force=arguments.force)


def remove(arguments: argparse.Namespace) -> int:
    """Take it out."""
    return _change(arguments, "server.remove", force=arguments.force)


def _change(arguments: argparse.Namespace, verb: str, **fields: Any) -> int:
    result = request(arguments, verb, server=arguments.server, **fields)
    for line in result["lines"]:
        _say(arguments, line)
    if result["warning"]:
        print(f"ns7: {result['warning']}", file=sys.stderr)
    if arguments.save:
        _save(arguments, result)
    empty = not getattr(arguments, "wait", False) or _wait(arguments, result)
    if arguments.json:
        print(json.dumps(result, indent=2))
    return 0 if empty else 1


def _say(arguments: argparse.Namespace, line: str) -> None:
    if not arguments.json:
        print(line, flush=True)


def _save(arguments: argparse.Namespace, result: dict[str, Any]) -> None:
    """With the rights of who asks, not those of the supervisor: who may not write the file does not."""
    from balancer.config.editing import save
    from balancer.errors import ConfigError
    from balancer.process.live import Change

    changes = [Change(**change) for change in result["live"]]
    if not changes:                 # what the file says counts
        return
    try:
        save(result["file"], result["node"], changes)
    except (ControlError, ConfigError) as error:
        raise ControlError(f"changed, but not saved: {error}") from error
    request(arguments, "server.saved", server=result["server"])
    _say(arguments, f"written into {result['file']}")


def _wait(arguments: argparse.Namespace, result: dict[str, Any]) -> bool:
    """Until the server is empty, telling what is left; False when that took longer than --timeout."""
    begin, shown = time.monotonic(), ""
    while True:
        queries, connections = _left(request(arguments, "status"), result["server"])
        seconds = time.monotonic() - begin
        result.update(inflight=queries, connections=connections, seconds=round(seconds, 3))
        left = f"{queries} queries in flight, {connections} TCP connections in use"
        if not queries and not connections:
            _say(arguments, f"{result['server']}: empty after {seconds:.1f} s")
            return True
        if arguments.timeout is not None and seconds >= arguments.timeout:
            print(f"ns7: {result['server']}: {left} after {seconds:.1f} s", file=sys.stderr)
            return False
        if left != shown:
            _say(arguments, f"{result['server']}: {left}")
            shown = left
        time.sleep(LOOK)


def _left(state: dict[str, Any], name: str) -> tuple[int, int]:
    """Queries in flight at a server, and TCP connections toward it that a client holds; a removed one counts until
    its place is given up, and one of the same name that was added since does not."""
    service, _, server = name.partition("/")
    found = [one for each in state["services"] if each["name"] == service
             for one in each["servers"] if one["name"] == server and one["state"] != "up"]
    return (sum(one["inflight"] for one in found), sum(one["tcp"]["open"] - one["tcp"]["idle"] for one in found))
