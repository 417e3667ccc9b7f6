"""Row reload: listeners, number of workers and servers change again and again under load over UDP and TCP."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import goals, ns7
from benchmarks.lab import Address, LabError, free_port
from benchmarks.report import Goal, at_least, at_most, told
from benchmarks.workers.bench import SERVICE, Bench

RATE, TCP_RATE = 5_000, 100
EVERY = 3.0
WORKERS = (1, 4, 2)
SERVERS = 3
MIGRATE = Path("/proc/sys/net/ipv4/tcp_migrate_req")


def step(bench: Bench, number: int, second: Address) -> str:
    """The configuration after so many reloads: each differs from the one before in everything it may."""
    addresses = [address for place, address in enumerate(bench.servers.addresses) if place != number % SERVERS]
    service = bench.service(addresses, [second] if number % 2 else [])
    return ns7.config_text([service], WORKERS[number % len(WORKERS)], bench.balancer.control)


def speaks_tcp(address: Address) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(1)
        return sock.connect_ex(address) == 0


@contextlib.contextmanager
def migrating() -> Iterator[None]:
    """Connections that a closed listener had not accepted go to the others, as deploy/sysctl.conf sets it."""
    before = MIGRATE.read_text()
    try:
        MIGRATE.write_text("1")
    except PermissionError:
        print("reload: not root, so tcp_migrate_req stays as it is: some connections may be reset")
        yield
        return
    try:
        yield
    finally:
        MIGRATE.write_text(before)


def reload(bench: Bench) -> None:
    """One reload each `EVERY` seconds, or when the one before is done."""
    with migrating():
        _reload(bench)


def _reload(bench: Bench) -> None:
    bench.start_servers(SERVERS)
    second = Address("127.0.0.1", free_port())
    bench.start_ns7(WORKERS[0])
    tcp = speaks_tcp(bench.listen)
    seconds = 2 + goals.RELOADS * EVERY
    clients = {"UDP": bench.client(RATE, seconds)}
    if tcp:
        clients["TCP connects"] = bench.client(TCP_RATE, seconds, "tcp", ["--tcp"])
    clock, refused = clients["UDP"], ""
    took: list[float] = []
    for number in range(1, goals.RELOADS + 1):
        clock.wait_until(1 + (number - 1) * EVERY)
        if clock.second > seconds:
            break
        begin = time.monotonic()
        try:
            bench.balancer.reload(step(bench, number, second))
            took.append(time.monotonic() - begin)
        except LabError as exc:
            refused = str(exc)
            print(f"reload {number}: {exc}", flush=True)
    what = "reload under load"
    results = {name: bench.took(name, client.result()) for name, client in clients.items()}
    row = f"{what}: applied" + (f" (last refusal: {refused[:60]})" if refused else "")
    bench.run.goals.append(at_least(row, len(took), goals.RELOADS, digits=0))
    bench.run.goals.append(told(f"{what}: longest reload", f"{max(took, default=0):.2f} s"))
    service = ns7.find_service(bench.balancer.wait_idle(SERVICE, 10), SERVICE)
    counted = {key: service[key] for key in ("queries", "answers", "timeouts", "inflight", "socket_drops", "dropped")}
    print(f"reload: ns7 counts {counted}")
    bench.run.details.append({"row": bench.row, "took": took, "counted": counted})
    for name, result in results.items():
        bench.lost(f"{what}, {name}", [result], goals.LOST)
    if tcp:
        broken = results["TCP connects"]
        total = broken.refused + broken.reset + broken.closed
        bench.run.goals.append(at_most(f"{what}, TCP connects: refused or broken", total, goals.LOST, digits=0))
    else:
        bench.run.goals.append(Goal(f"{what}, TCP connects", "ns7 does not listen on TCP", "-", None))
