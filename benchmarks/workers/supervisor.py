"""Row supervisor: it is killed under load; its children go, nothing listens, and a restart serves at once."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

from benchmarks import goals, meter
from benchmarks.lab import Address
from benchmarks.load import query
from benchmarks.report import Goal, at_most, median, ratios
from benchmarks.servers import PROBE
from benchmarks.workers.bench import Bench

TRIALS = 5
WORKERS = 2
RATE = 1_000
LOAD_SECONDS = 4.0
GONE_SECONDS = 10.0


def survivors(members: Mapping[int, int | None]) -> list[int]:
    """Those of a tree (pid → start time) that still run. The lab inherits orphans, so it reaps them here."""
    alive = []
    for pid, started in members.items():
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        if started is not None and meter.start_time(pid) == started:
            alive.append(pid)
    return alive


def listens(address: Address) -> list[str]:
    """The protocols of the address that do not refuse."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        sock.settimeout(0.5)
        try:
            sock.send(query(PROBE, 1))
            sock.recv(512)
            found.append("UDP")
        except ConnectionRefusedError:
            pass
        except TimeoutError:
            found.append("UDP, silent")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(0.5)
        if sock.connect_ex(address) == 0:
            found.append("TCP")
    return found


def supervisor(bench: Bench) -> None:
    """Trials; the worst, and the restarts' times beside those of the first starts."""
    bench.start_servers()
    starts: dict[int, float] = {}
    restarts: dict[int, float] = {}
    gone: list[float] = []
    listening: list[str] = []
    for trial in range(TRIALS):
        starts[trial] = bench.start_ns7(WORKERS)
        root = bench.balancer.process
        members = {pid: meter.start_time(pid) for pid in meter.tree(root.pid) if pid != root.pid}
        client = bench.client(RATE, LOAD_SECONDS)
        client.wait_until(LOAD_SECONDS / 2)
        os.kill(root.pid, signal.SIGKILL)
        killed = time.monotonic()
        root.popen.wait()
        left = survivors(members)
        while left and time.monotonic() < killed + GONE_SECONDS:
            time.sleep(0.005)
            left = survivors(members)
        gone.append(time.monotonic() - killed)
        listening += listens(bench.listen)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        bench.lab.stop(root)
        restarts[trial] = bench.start_ns7(WORKERS)
        bench.took(f"trial {trial + 1}, dead for a while", client.result())
        bench.lab.stop(bench.balancer.process)
        print(
            f"supervisor, trial {trial + 1}: children gone after {gone[-1]:.3f} s, "
            f"start {starts[trial]:.2f} s, restart {restarts[trial]:.2f} s",
            flush=True,
        )
    bench.run.details.append({"row": bench.row, "gone": gone, "starts": starts, "restarts": restarts})
    row = "supervisor killed: "
    bench.run.goals += [
        at_most(row + "children gone, worst trial", max(gone), goals.ORPHANS_GONE, " s", 3),
        Goal(row + "still listening", ", ".join(listening) or "nothing", "nothing", not listening),
        at_most(row + "restart to first start", median(ratios(restarts, starts)), goals.RESTART_TO_START),
    ]
