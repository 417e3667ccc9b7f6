"""Every query is accounted for: at rest queries = answers + dropped + timeouts + in flight = what dnsperf says it sent.

Through reloads, drains and new crews of workers to the query; within one batch for each worker that is killed. No
counter ever falls, and what was sent twice is counted apart.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.load import Load, parse_dnsperf
from tests.conftest import StartBalancer, StartServer, StartTcpServer
from tests.helpers import ports
from tests.helpers.daemon import BATCH, Balancer
from tests.helpers.need import require_program
from tests.helpers.ports import free_address
from tests.helpers.waiting import wait_for
from tests.scenario.test_admin import answers, metrics
from tests.scenario.test_servers import change

LOOK = 0.05

Step = tuple[float, Callable[[], object]]


def counted(balancer: Balancer) -> Iterator[tuple[str, int]]:
    """Every counter of the service by its path; gauges are none."""
    def walk(path: str, value: Any) -> Iterator[tuple[str, int]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key not in ("inflight", "open", "idle", "weight"):
                    yield from walk(f"{path}/{key}", inner)
        elif isinstance(value, int | float):
            yield path, value

    service = balancer.service()
    servers = {server["name"]: server for server in service.pop("servers")}
    return walk("", {**service, "server": servers})


def dnsperf(balancer: Balancer, folder: Path, qps: int, seconds: float, steps: Sequence[Step], *more: str) -> Load:
    """Ask at `qps`; what dnsperf says of it. Meanwhile `steps` are done, and no counter may fall."""
    require_program("dnsperf", "dnsperf")
    queries = folder / "queries.txt"
    queries.write_text("".join(f"n{number}.example A\n" for number in range(100)))
    host, port = ports.split(balancer.address)
    argv = ["dnsperf", "-s", host, "-p", str(port), "-d", str(queries), "-l", f"{seconds:g}", "-Q", str(qps),
            "-c", "8", "-T", "1", *more]
    before: dict[str, int] = {}
    waiting = list(steps)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        begin = time.monotonic()
        while process.poll() is None:
            if waiting and time.monotonic() >= begin + waiting[0][0]:
                waiting.pop(0)[1]()
            found = dict(counted(balancer))
            fallen = {path: (old, found[path]) for path, old in before.items() if found.get(path, old) < old}
            assert not fallen, fallen
            before.update(found)
            time.sleep(LOOK)
        assert process.stdout is not None
        told = process.stdout.read()
    for _, step in waiting:     # on a busy machine the load may end first
        step()
    assert process.returncode == 0, told
    return parse_dnsperf(told)


def sums(counters: dict[str, Any]) -> int:
    return int(counters["answers"] + sum(counters["dropped"].values()) + counters["timeouts"] + counters["inflight"])


def test_to_the_query(start: StartBalancer, nameserver: StartServer, tmp_path: Path) -> None:
    """Reloads in place and of the number of workers, a drain and its end, a weight, over UDP."""
    http = free_address()
    balancer = start([nameserver().address, nameserver().address], workers=2, http=[http])
    load = dnsperf(balancer, tmp_path, 800, 4.5, [
        (0.5, partial(balancer.reload, udp_timeout="3s")),
        (1.0, partial(change, balancer, "set", "s1", state="drained")),
        (1.5, partial(balancer.reload, workers=1)),
        (2.5, partial(change, balancer, "set", "s1", state="auto")),
        (3.0, partial(balancer.reload, workers=2)),
        (3.5, partial(change, balancer, "set", "s2", weight=3)),
    ])
    service = balancer.wait_idle()
    assert load.lost == 0
    assert service["queries"] == load.sent == sums(service)
    assert service["answers"] == load.completed
    legs = sum(server["queries"] for server in service["servers"])
    assert legs == service["queries"] + sum(server["resends"] for server in service["servers"])
    wait_for("admin answers", lambda: answers(http))
    told = metrics(http)
    assert told["ns7_queries_total"] == load.sent and told["ns7_answers_total"] == load.completed
    assert told["ns7_dropped_total"] == told["ns7_timeouts_total"] == told["ns7_inflight"] == 0
    assert told["ns7_server_queries_total"] == load.sent + told["ns7_server_resends_total"]


def test_killed_workers(start: StartBalancer, nameserver: StartServer, tmp_path: Path) -> None:
    kills = 2
    balancer = start([nameserver().address, nameserver().address], workers=2)

    def kill(number: int) -> None:
        wait_for("a spare", lambda: all(worker["listening"] for worker in balancer.status()["workers"]))
        balancer.kill_worker(number % 2)

    steps = [(0.5 + 1.5 * number, partial(kill, number)) for number in range(kills)]
    load = dnsperf(balancer, tmp_path, 800, 3.5, steps)
    service = balancer.wait_idle()
    assert load.lost == 0
    assert abs(service["queries"] - sums(service)) <= kills * BATCH
    assert abs(service["queries"] - load.sent) <= kills * BATCH


def test_servers_that_do_not_answer(start: StartBalancer, nameserver: StartServer, tmp_path: Path) -> None:
    """What times out, or is answered by the second server, is counted once; its legs are counted apart."""
    deaf = nameserver(lambda received: [])
    balancer = start([deaf.address, nameserver().address], udp_timeout="500ms")
    load = dnsperf(balancer, tmp_path, 400, 1, [])
    service = balancer.wait_idle()
    assert service["queries"] == load.sent == sums(service)
    resends = sum(server["resends"] for server in service["servers"])
    assert resends and sum(server["queries"] for server in service["servers"]) == service["queries"] + resends


def test_tcp(start: StartBalancer, tcpserver: StartTcpServer, tmp_path: Path) -> None:
    balancer = start([tcpserver().address, tcpserver().address])
    todo: list[Step] = [(0.5, partial(change, balancer, "set", "s1", state="drained")),
                        (1.0, partial(balancer.reload, udp_timeout="3s")),
                        (1.5, partial(change, balancer, "set", "s1", state="auto"))]
    load = dnsperf(balancer, tmp_path, 300, 2, todo, "-m", "tcp")
    tcp = balancer.wait_idle()["tcp"]
    assert load.lost == 0
    assert tcp["queries"] == load.sent == sums(tcp)
