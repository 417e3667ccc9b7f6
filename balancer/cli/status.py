"""`ns7 status`, `ns7 reload`, `ns7 upgrade`, `ns7 stop`: ask the running supervisor."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from balancer.cli.asking import add_arguments, request
from balancer.cli.server import told

INTERVAL = 1.0              # seconds between two looks


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the grammar."""
    for verb, text, function in (("status", "show services, servers and counters", status),
                                 ("reload", "apply the changed configuration file", reload),
                                 ("upgrade", "let the program as it is installed now take over", upgrade),
                                 ("stop", "let go of the virtual address, answer what is in flight, end", stop)):
        command = commands.add_parser(verb, help=text)
        if function is status:
            command.add_argument("--rate", action="store_true", help="per second, over one second")
            command.add_argument("--watch", action="store_true", help="per second, again and again until Ctrl-C")
            command.add_argument("--interval", type=_seconds, default=INTERVAL, metavar="SECONDS",
                                 help="between two looks (%(default)g)")
            command.add_argument("--count", type=int, metavar="N", help="with --watch: end after so many")
        add_arguments(command)
        command.set_defaults(run=function)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("must be 0.1 to 3600")
    return seconds


def status(arguments: argparse.Namespace) -> int:
    """Print the state."""
    if arguments.watch:
        return _watch(arguments)
    before = None
    if arguments.rate:
        before = Look(request(arguments, "status"), time.monotonic())
        time.sleep(arguments.interval)
    now = Look(request(arguments, "status"), time.monotonic())
    if arguments.json:
        print(json.dumps(now.state, indent=2))
    else:
        print("\n".join(table(now.state, before and Change(before, now))))
    return 0


class Look(NamedTuple):
    """The state as it was at a time (CLOCK_MONOTONIC seconds)."""

    state: dict[str, Any]
    at: float


class Change:
    """What happened between two looks."""

    def __init__(self, before: Look, now: Look) -> None:
        self._seconds = max(now.at - before.at, 1e-3)
        self._before = {(service["name"], server["name"], server["address"]): server
                        for service in before.state["services"] for server in service["servers"]}
        self._before |= {(service["name"], "", ""): service for service in before.state["services"]}

    def counters(self, service: str, server: dict[str, Any] | None, proto: str) -> dict[str, Any]:
        """The counters of then; {} where there was nothing."""
        found = self._before.get((service, server["name"], server["address"]) if server else (service, "", ""), {})
        inner: dict[str, Any] = found.get("tcp", {}) if proto == "TCP" else found
        return inner

    def per_second(self, before: float, now: float) -> float:
        """A restart begins counting anew."""
        return max(0.0, now - before) / self._seconds


# The columns of a server's line: heading, width, and the text for (its counters, those of the look before, the rate).
Column = tuple[str, int, Callable[[dict[str, Any], dict[str, Any], Change | None], str]]


def _total(key: str, tcp_key: str = "") -> Callable[..., str]:
    return lambda now, then, change: str(now[key] if key in now else now[tcp_key])


def _rate(key: str) -> Callable[..., str]:
    return lambda now, then, change: short(change.per_second(then.get(key, 0), now[key]))


def _latency(part: float) -> Callable[..., str]:
    return lambda now, then, change: percentile(
        now["latency"]["buckets"], then.get("latency", {}).get("buckets", {}) if change else {}, part)


def _answers(now: dict[str, Any], then: dict[str, Any], change: Change | None) -> str:
    return str(sum(now["answers"].values()))


def _answer_rate(now: dict[str, Any], then: dict[str, Any], change: Change | None) -> str:
    assert change is not None
    return short(change.per_second(sum(then.get("answers", {}).values()), sum(now["answers"].values())))


TOTALS: tuple[Column, ...] = (
    ("Queries", 11, _total("queries")), ("Answers", 11, _answers), ("Resent", 7, _total("resends")),
    ("Timeouts", 8, _total("timeouts")), ("Refused", 7, _total("refusals", "failures")),
    ("InBytes", 8, lambda now, then, change: short(now["bytes_in"])),
    ("OutBytes", 8, lambda now, then, change: short(now["bytes_out"])),
    ("p50ms", 6, _latency(0.5)), ("p99ms", 6, _latency(0.99)))
RATES: tuple[Column, ...] = (
    ("QPS", 8, _rate("queries")), ("APS", 8, _answer_rate), ("Resent/s", 8, _rate("resends")),
    ("Timeout/s", 9, _rate("timeouts")), ("InBPS", 8, _rate("bytes_in")), ("OutBPS", 8, _rate("bytes_out")),
    ("p50ms", 6, _latency(0.5)), ("p99ms", 6, _latency(0.99)))


def short(number: float) -> str:
    """At most five characters, as ipvsadm shortens: 999, 12K, 3M, 45G."""
    for unit in ("", "K", "M", "G", "T"):
        if number < 10_000 or unit == "T":
            break
        number /= 1000
    return f"{number:.1f}" if unit == "" and 0 < number < 10 and number % 1 else f"{number:.0f}{unit}"


def percentile(buckets: dict[str, int], before: dict[str, int], part: float) -> str:
    """In milliseconds, the bound of the bucket that it lies in; "-" without an answer."""
    counts = [(bound, count - before.get(bound, 0)) for bound, count in buckets.items()]
    total = counts[-1][1]
    if total <= 0:
        return "-"
    bound = next(bound for bound, count in counts if count >= part * total)
    return f">{float(counts[-2][0]) * 1000:g}" if bound == "+Inf" else f"{float(bound) * 1000:g}"


def table(state: dict[str, Any], change: Change | None = None) -> list[str]:
    """The state as lines, readable to who knows `ipvsadm -Ln --stats`, with a change `--rate`."""
    columns = RATES if change else TOTALS
    lines = [f"ns7 {state['version']} on {state['node']} ({state['standing']}), up {_age(state['uptime'])}, "
             f"{len(state['workers'])} workers, generation {state['generation']}"
             + ("" if state["ready"] else ", NOT READY: not all workers are listening"),
             "Prot LocalAddress:Port Scheduler",
             f"  -> {'RemoteAddress:Port':22} {'Name':10} {'State':8} {'Weight':>6} {'InFlight':>8} "
             + " ".join(f"{heading:>{width}}" for heading, width, _ in columns)]
    for service in state["services"]:
        for proto, counters in (("UDP", service), ("TCP", service["tcp"])):
            lines.append(f"{proto}  {', '.join(service['listen'])} {service['scheduler']}  "
                         f"({service['name']}: {_head(service['name'], proto, counters, change)})")
            lines += [_server(service["name"], proto, server, columns, change) for server in service["servers"]]
            lines += _reasons("dropped", counters["dropped"])
            lines += _reasons("closed", counters.get("closed", {}))
    lines += [f"changed: {one['service']}/{one['server']} {told(one)}" for one in state["live"]]
    lines += _health(state["services"])
    return lines + [f"{name}: {line}" for name, summary in state["summaries"].items() for line in summary]


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


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _head(service: str, proto: str, counters: dict[str, Any], change: Change | None) -> str:
    dropped = sum(counters["dropped"].values())
    if change is not None:
        then = change.counters(service, None, proto)
        rates = ", ".join(f"{short(change.per_second(then.get(key, 0), counters[key]))} {key}/s"
                          for key in ("queries", "answers", "timeouts"))
        gone = change.per_second(sum(then.get("dropped", {}).values()), dropped)
        return f"{rates}, {short(gone)} dropped/s"
    total = (f"{counters['queries']} queries, {counters['answers']} answers, {counters['timeouts']} timeouts, "
             f"{dropped} dropped")
    return total if proto == "UDP" else (f"{total}, {counters['open']} connections of {counters['connections']}, "
                                         f"{counters['transfers']} transfers")


def _server(service: str, proto: str, server: dict[str, Any], columns: tuple[Column, ...],
            change: Change | None) -> str:
    counters = server["tcp"] if proto == "TCP" else server
    inflight = counters["inflight"] if proto == "TCP" else server["inflight"] - server["tcp"]["inflight"]
    then = change.counters(service, server, proto) if change else {}
    return (f"  -> {server['address']:22} {server['name']:10} {server['state']:8} {server['weight']:6} {inflight:8} "
            + " ".join(f"{text(counters, then, change):>{width}}" for _, width, text in columns))


def _reasons(word: str, counts: dict[str, int]) -> list[str]:
    found = ", ".join(f"{reason} {count}" for reason, count in counts.items() if count)
    return [f"     {word}: {found}"] if found else []


def _watch(arguments: argparse.Namespace) -> int:
    """Draw in place on a terminal, else one table after the other."""
    try:
        if not sys.stdout.isatty() or arguments.json:
            for lines in _looks(arguments):
                print(*lines, "", sep="\n", flush=True)
            return 0
        from rich.live import Live
        from rich.text import Text

        with Live(auto_refresh=False, screen=True) as live:
            for lines in _looks(arguments):
                text = Text("\n".join(lines), no_wrap=True)
                text.highlight_regex(r"\b(down|removed)\b", "red")
                text.highlight_regex(r"\bdrained\b", "yellow")
                text.highlight_regex(r"\bup\b(?= +\d)", "green")
                live.update(text, refresh=True)
    except KeyboardInterrupt:
        pass
    return 0


def _looks(arguments: argparse.Namespace) -> Iterator[list[str]]:
    """What to show, again and again; an ns7 that is being started again is waited for."""
    from balancer.errors import ControlError

    before = Look(request(arguments, "status"), time.monotonic())
    shown = 0
    while arguments.count is None or shown < arguments.count:
        time.sleep(arguments.interval)
        shown += 1
        try:
            now = Look(request(arguments, "status"), time.monotonic())
        except ControlError as error:
            yield [str(error)]
            continue
        yield [json.dumps(now.state)] if arguments.json else table(now.state, Change(before, now))
        before = now


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
    """Tell the supervisor to end, and wait until it has."""
    pid = request(arguments, "stop")["pid"]
    with contextlib.suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        select.select([process], [], [])
        os.close(process)
    return 0
