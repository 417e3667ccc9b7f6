"""What happens to clients when processes of ns7 die, hang or change: `./dev bench workers`.

Every row runs real NSD servers, a real ns7 and the one-shot client in a process of its own, which sends each
query once. A row that needs what this ns7 does not have says so and is left out.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import peers
from benchmarks.lab import Lab, LabError
from benchmarks.udp import Options, Run
from benchmarks.workers.accounts import accounts
from benchmarks.workers.balance import balance
from benchmarks.workers.bench import Bench
from benchmarks.workers.children import children
from benchmarks.workers.crash import kill, stop
from benchmarks.workers.reload import reload
from benchmarks.workers.supervisor import supervisor

ROWS: dict[str, Callable[[Bench], None]] = {
    "kill": kill,
    "stop": stop,
    "supervisor": supervisor,
    "reload": reload,
    "balance": balance,
    "children": children,
    "accounts": accounts,
}


def workers(lab: Lab, options: Options) -> Run:
    """Measure the rows asked for."""
    run = Run()
    if why := peers.missing("ns7", options.ns7):
        run.missing["ns7"] = why
        print(f"MISSING: {why}", flush=True)
        return run
    for name in options.rows or tuple(ROWS):
        bench = Bench(lab, options, run, name)
        try:
            ROWS[name](bench)
        except LabError as exc:
            run.fail(f"{name}: {exc}")
        lab.close()
        bench.print_loads()
    return run
