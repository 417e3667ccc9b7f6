"""`ns7 refresh` and `ns7 sync …`: ask the sync process through the control socket."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from balancer.cli import asking
from balancer.errors import ControlError

LONGEST = 300.0             # seconds that a refresh or a pull may take
LOOK = 0.1                  # seconds between two looks at the pullers
ALL_RIGHT, NOT_EVERYWHERE, REFUSED = 0, 1, 2


def commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the grammar."""
    command = subparsers.add_parser(
        "refresh", help="check and publish the zones that have changed",
        epilog="Exit code: 0 published, and every puller was told (with --wait: serves it); 1 published, but not every "
        "puller was told or serves it; 2 nothing was published.")
    command.add_argument("--wait", action="store_true", help="wait until every puller serves it")
    command.add_argument("--full", action="store_true", help="check every zone, not only those that have changed")
    command.add_argument("--force", action="store_true",
                         help="publish what is right: leave wrong zones as they were, take suspicious changes as meant")
    _asks(command, refresh)
    group = subparsers.add_parser("sync", help="zones that are copied from host to host")
    verbs = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command = verbs.add_parser("now", help="puller: take over what the publisher has, now")
    command.add_argument("--full", action="store_true", help="verify and load everything, changed or not")
    command.add_argument("--force", action="store_true", help="take suspicious, older and bad generations, too")
    _asks(command, now)
    _asks(verbs.add_parser("status", help="generations, zones, and how the pullers are"), status)
    command = verbs.add_parser("rollback", help="puller: serve an earlier generation until there is a newer one")
    command.add_argument("generation", type=int, nargs="?", metavar="GENERATION", help="default: the one before")
    _asks(command, rollback)
    _asks(verbs.add_parser("diff", help="what the next refresh would publish, the next pull would take over"), diff)


def _asks(command: argparse.ArgumentParser, function: Any) -> None:
    asking.add_arguments(command)
    command.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS",
                         help="how long to wait for the outcome (%(default)g)")
    command.set_defaults(run=function)


def _request(arguments: argparse.Namespace, verb: str, patience: float | None = None, **fields: Any) -> Any:
    seconds = min(max(patience or arguments.timeout, 0.1), LONGEST)
    try:
        return asking.request(arguments, f"sync.{verb}", patience=seconds + 2, timeout=seconds, arguments=fields)
    except ControlError as error:
        if "cannot ask ns7" in str(error):
            raise ControlError(f"{error}\nZones are published and pulled by a running ns7: systemctl start ns7 "
                               "(or --socket, when it listens elsewhere)") from error
        raise


def refresh(arguments: argparse.Namespace) -> int:
    """Publish; what is wrong goes to standard error, line by line."""
    started = time.monotonic()
    result = _request(arguments, "refresh", full=arguments.full, force=arguments.force)
    if not result["ok"]:
        _print(arguments, result, [])
        if not arguments.json:
            print(*result["errors"], "nothing was published", sep="\n", file=sys.stderr)
        return REFUSED
    done = "was told"
    if arguments.wait:
        result["pullers"] = _wait(arguments, result["generation"], started)
        done = "serves it"
    _print(arguments, result, _told(result, done))
    return NOT_EVERYWHERE if any(result["pullers"].values()) else ALL_RIGHT


def _told(result: Mapping[str, Any], done: str) -> list[str]:
    lines = [f"generation {result['generation']} in {result['seconds']:.2f} s: {result['changes']}"]
    lines += [f"warning: {line}" for line in result["warnings"]]
    for left in result["left"]:
        name = left["name"] + (f" (view {left['view']})" if left["view"] else "")
        lines.append(f"not copied: {name}: {left['reason']}"
                     + ("; on each puller write:" if left["stanza"] else ""))
        lines += [f"    {line}" for line in left["stanza"].splitlines()]
    return lines + [f"{puller}: {problem or done}" for puller, problem in result["pullers"].items()]


def _wait(arguments: argparse.Namespace, generation: int, started: float) -> dict[str, str]:
    """Until every puller serves this generation or will not; by puller what keeps it from that."""
    live = sys.stderr.isatty() and not arguments.json
    while True:
        found = _request(arguments, "pullers", 10.0)
        waiting = {each["puller"]: each["reason"] or each["state"] for each in found
                   if each["generation"] < generation}
        final = {each["puller"] for each in found if each["failed"] >= generation}
        seconds = time.monotonic() - started
        if live:
            print(f"\r{len(found) - len(waiting)} of {len(found)} pullers serve it, {seconds:.1f} s ", end="",
                  file=sys.stderr, flush=True)
        if not waiting.keys() - final or seconds > arguments.timeout:
            if live:
                print(file=sys.stderr)
            return {each["puller"]: f"does not serve it: {waiting[each['puller']]}" if each["puller"] in waiting else ""
                    for each in found}
        time.sleep(LOOK)


def now(arguments: argparse.Namespace) -> int:
    """Pull; 1 and the reason when that fails."""
    result = _request(arguments, "now", full=arguments.full, force=arguments.force)
    failed = "failed" in result
    _print(arguments, result, [] if failed else [f"generation {result['generation']}: {result['changes']}"])
    if failed and not arguments.json:
        print(f"{result['failed']}: {result['reason']}", file=sys.stderr)
    return 1 if failed else 0


def status(arguments: argparse.Namespace) -> int:
    """Print how it is; 1 when something is not as it should be."""
    state = _request(arguments, "status", 10.0)
    _print(arguments, state, table(state))
    behind = any(each["generation"] != state["generation"] for each in state["pullers"])
    return 1 if behind or state["state"] in ("failed", "retrying") else 0


def table(state: Mapping[str, Any]) -> list[str]:
    """The answer to "status" as lines."""
    since = f", made {_moment(state['time'])}" if state["time"] else ""
    lines = [f"{'publishes' if state['role'] == 'publish' else 'pulls'}: generation {state['generation']}{since}, "
             f"{state['zones']} zones, {state['state']}" + (f": {state['reason']}" if state["reason"] else "")]
    for each in state["pullers"]:
        behind = f", behind for {each['behind']:.0f} s" if each["behind"] else ""
        lines.append(f"{each['puller']}: generation {each['generation']}, {each['state']}{behind}"
                     + (f": {each['reason']}" if each["reason"] else ""))
    if state.get("kept"):
        lines.append(f"kept: {', '.join(map(str, state['kept']))}")
    return lines + [f"not tried again: {number}: {why}" for number, why in state.get("bad", {}).items()]


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))


def rollback(arguments: argparse.Namespace) -> int:
    """Go back."""
    result = _request(arguments, "rollback", generation=arguments.generation)
    _print(arguments, result, [f"serves generation {result['generation']} again; {result['before']} is not pulled "
                               "again, a newer one will be"])
    return 0


def diff(arguments: argparse.Namespace) -> int:
    """Print what differs; 1 when something does."""
    result = _request(arguments, "diff")
    lines = [f"from {result['from']} to {result['to']}: {result['changes']}"]
    lines += [f"{each['what']:8} {each['zone']}{' (view ' + each['view'] + ')' if each['view'] else ''}  "
              f"{_serial(each['before'])} → {_serial(each['after'])}" for each in result["zones"]]
    _print(arguments, result, lines + [f"would be refused: {line}" for line in result["errors"]])
    return 1 if result["zones"] or result["errors"] else 0


def _serial(serial: int | None) -> str:
    return "-" if serial is None else str(serial)


def _print(arguments: argparse.Namespace, data: Any, lines: list[str]) -> None:
    if arguments.json:
        print(json.dumps(data, indent=2))
    elif lines:
        print(*lines, sep="\n")
