"""`ns7 status`, `ns7 reload`, `ns7 upgrade`, `ns7 stop`: ask the running supervisor."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from balancer.cli.asking import add_arguments, request


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the grammar."""
    for verb, text, function in (("status", "show services, servers and counters", status),
                                 ("reload", "apply the changed configuration file", reload),
                                 ("upgrade", "let the program as it is installed now take over", upgrade),
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
        tcp = service["tcp"]
        lines.append(f"UDP  {_head(service, service)})")
        lines += [_server(server, server, server["inflight"] - server["tcp"]["inflight"], server["refusals"])
                  for server in service["servers"]]
        lines += _reasons("dropped", service["dropped"])
        lines.append(f"TCP  {_head(service, tcp)}, {tcp['open']} connections of {tcp['connections']}, "
                     f"{tcp['transfers']} transfers)")
        lines += [_server(server, server["tcp"], server["tcp"]["inflight"], server["tcp"]["failures"])
                  for server in service["servers"]]
        lines += _reasons("dropped", tcp["dropped"])
        lines += _reasons("closed", tcp["closed"])
    return lines + _health(state["services"])


def _health(services: list[dict[str, Any]]) -> list[str]:
    """What the probes found; nothing when nobody was probed."""
    now = time.time()
    rows = [f"{service['name'] + '/' + server['name']:24} {proto:5}{found['verdict']:8} {_moment(found['since'])} "
            f"{_ago(found['probed'], now):>9} {_milliseconds(found['latency']):>10}  {found['reason']}".rstrip()
            for service in services for server in service["servers"] for proto, found in server["health"].items()
            if found["probed"]]
    head = f"{'Health':37} {'Since':19} {'Probed':>9} {'Latency':>10}  Last reason"
    return [head, *rows] if rows else []


def _moment(at: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at else f"{'-':19}"


def _ago(at: float, now: float) -> str:
    return f"{max(0.0, now - at):.1f} s ago"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.2f} ms"


def _head(service: dict[str, Any], counters: dict[str, Any]) -> str:
    return (f"{', '.join(service['listen'])} {service['scheduler']}  ({service['name']}: "
            f"{counters['queries']} queries, {counters['answers']} answers, {counters['timeouts']} timeouts, "
            f"{sum(counters['dropped'].values())} dropped")


def _server(server: dict[str, Any], counters: dict[str, Any], inflight: int, refused: int) -> str:
    return (f"  -> {server['address']:24} {server['name']:12} {server['state']:8} {server['weight']:6} "
            f"{inflight:8} {counters['queries']:11} {sum(counters['answers'].values()):11} "
            f"{counters['timeouts']:9} {refused:8}")


def _reasons(word: str, counts: dict[str, int]) -> list[str]:
    told = ", ".join(f"{reason} {count}" for reason, count in counts.items() if count)
    return [f"     {word}: {told}"] if told else []


def reload(arguments: argparse.Namespace) -> int:
    """Apply the file; 2 and the reasons when it is refused."""
    result = request(arguments, "reload", patience=60.0)
    print(json.dumps(result) if arguments.json else "\n".join(result["changes"]) or "nothing changed")
    return 0


def upgrade(arguments: argparse.Namespace) -> int:
    """Change the running program for the installed one; 2 and the reason when it stays as it is."""
    result = request(arguments, "upgrade", patience=150.0)
    print(json.dumps(result) if arguments.json else
          f"version {result['to']} (pid {result['pid']}) has taken over from {result['from']}")
    return 0


def stop(arguments: argparse.Namespace) -> int:
    """Tell the supervisor to end."""
    request(arguments, "stop")
    return 0
