"""The peers: how each balancer is configured, started and named, all toward the same servers.

A peer gets one plan: where to listen, which servers, how many workers. `direct` is no balancer: the load goes
to the first name server, which shows what the servers and the generator allow on this machine.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import meter, ns7, servers
from benchmarks.lab import Address, Lab, LabError, Process, free_port
from benchmarks.load import wait_answer
from tests.helpers.unit import Manager

BUFFER = 4 << 20
START_SECONDS = 15.0
RELOADS, CHANGE_PAUSE = 10, 0.2         # of a peer that is changed while it is used; seconds between two changes
NGINX_MODULES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/libexec/nginx")


@dataclass(frozen=True)
class Plan:
    """What every peer is asked to do. `prefix` goes before its command; `checks` is for runs in which servers fail."""

    name: str
    listen: Address
    servers: list[Address]
    workers: int
    ns7_command: str = ns7.COMMAND
    prefix: tuple[str, ...] = ()
    checks: bool = False
    extra: str = ""                     # further lines of ns7's service
    manager: Manager | None = None
    tcp: bool = False                   # clients ask over TCP; only nginx must be told


@dataclass
class Running:
    """A started peer. `workers()` are the processes that forward. `change()` changes its servers again and again, for
    some seconds, where that can be done while it runs. ns7 alone can be upgraded."""

    name: str
    target: Address
    process: Process
    workers: Callable[[], list[int]]
    question: tuple[str, str] = servers.PROBE
    notes: list[str] = field(default_factory=list)
    change: Callable[[], None] | None = None
    ns7: ns7.Balancer | None = None


def sockets_per_server(count: int) -> int:
    """The rule ns7 follows, given to dnsdist too: 16, fewer with many servers."""
    return max(2, min(16, 1024 // count))


def dnsdist_config(plan: Plan) -> str:
    """Debian's 1.7.3 syntax: one listener thread per addLocal, health checks once a second or off by setUp()."""
    # Each server's table of outstanding queries is claimed at start: 65,535 times 256 would be gigabytes.
    outstanding = min(65535, max(2048, 131072 // len(plan.servers)))
    reuse = "true" if plan.workers > 1 else "false"
    lines = [
        "setACL({'127.0.0.0/8', '192.0.2.0/24'})",
        "setVerboseHealthChecks(false)",
        "setSecurityPollSuffix('')",
        f"setMaxUDPOutstanding({outstanding})",
        f"setUDPSocketBufferSizes({BUFFER}, {BUFFER})",
        "setServerPolicy(leastOutstanding)",
        f"setLocal('{plan.listen}', {{reusePort={reuse}}})",
    ]
    lines += [f"addLocal('{plan.listen}', {{reusePort=true}})"] * (plan.workers - 1)
    for server in plan.servers:
        options = f"address='{server}', sockets={sockets_per_server(len(plan.servers))}"
        every, up = (1, "") if plan.checks else (3600, ":setUp()")
        lines.append(f"newServer({{{options}, checkInterval={every}}}){up}")
    return "\n".join(lines) + "\n"


def nginx_config(plan: Plan, folder: Path, module: str | None) -> str:
    """A stream proxy that ends the session after one answer."""
    load = f"load_module {module};\n" if module else ""
    # Workers of a master started as root would change to another user.
    user = f"user {pwd.getpwuid(0).pw_name};\n" if os.geteuid() == 0 else ""
    fails = "" if plan.checks else " max_fails=0"
    upstream = "\n".join(f"    server {server}{fails};" for server in plan.servers)
    over_tcp = f"  server {{ listen {plan.listen} reuseport; proxy_pass servers; }}\n" if plan.tcp else ""
    return f"""{load}{user}daemon off;
worker_processes {plan.workers};
worker_rlimit_nofile 20000;
pid {folder}/{plan.name}.pid;
error_log stderr error;
events {{ worker_connections 16384; }}
stream {{
  upstream servers {{
    least_conn;
    zone servers 1m;
{upstream}
  }}
  server {{
    listen {plan.listen} udp reuseport rcvbuf={BUFFER} sndbuf={BUFFER};
    proxy_pass servers;
    proxy_requests 1;
    proxy_responses 1;
    proxy_timeout 2s;
  }}
{over_tcp}}}
"""


def _start_ns7(lab: Lab, plan: Plan) -> Running:
    service = ns7.Service("bench", plan.listen, [(server, 1) for server in plan.servers], extra=plan.extra)
    balancer = ns7.start(lab, plan.name, [service], plan.workers, plan.ns7_command, prefix=plan.prefix,
                         manager=plan.manager)
    return Running(plan.name, plan.listen, balancer.process, balancer.workers, ns7=balancer,
                   change=lambda: _change_ns7(balancer, service, plan.workers))


def _change_ns7(balancer: ns7.Balancer, service: ns7.Service, workers: int) -> None:
    """Ten reloads, also of the number of workers; then the last server is drained, removed and added again."""
    for number in range(RELOADS):
        changed = replace(service, servers=[(address, 1 + number % 2) for address, _ in service.servers])
        balancer.reload(ns7.config_text([changed], workers + (number in (3, 4, 5)), balancer.control))
        time.sleep(CHANGE_PAUSE)
    address = service.servers[-1][0]
    name = f"{service.name}/{ns7.server_name(address)}"
    balancer.request("server.set", server=name, state="drained")
    time.sleep(CHANGE_PAUSE)
    balancer.request("server.remove", server=name)
    time.sleep(CHANGE_PAUSE)
    balancer.request("server.add", server=name, address=str(address))


def _start_dnsdist(lab: Lab, plan: Plan) -> Running:
    config = lab.folder / f"{plan.name}.conf"
    config.write_text(dnsdist_config(plan))
    argv = [*plan.prefix, "dnsdist", "--supervised", "--disable-syslog", "-C", str(config)]
    process = lab.start(plan.name, argv)
    return Running(plan.name, plan.listen, process, lambda: [process.pid])


def _start_nginx(lab: Lab, plan: Plan) -> Running:
    config = lab.folder / f"{plan.name}.conf"
    found = [f"{folder}/ngx_stream_module.so" for folder in NGINX_MODULES]
    module = next((path for path in found if Path(path).exists()), None)
    config.write_text(nginx_config(plan, lab.folder, module))
    argv = [*plan.prefix, "nginx", "-e", "stderr", "-p", str(lab.folder), "-c", str(config)]
    process = lab.start(plan.name, argv)
    def reload() -> None:
        for _ in range(RELOADS):
            os.kill(process.pid, signal.SIGHUP)
            time.sleep(CHANGE_PAUSE)

    return Running(plan.name, plan.listen, process, lambda: meter.leaves(process.pid), change=reload)


def _start_uvproxy(lab: Lab, plan: Plan) -> Running:
    argv = [*plan.prefix, sys.executable, "-m", "benchmarks.uvproxy", "--listen", str(plan.listen)]
    for server in plan.servers:
        argv += ["--server", str(server)]
    process = lab.start(plan.name, argv)
    notes = ["uvproxy always runs one process"] if plan.workers > 1 else []
    return Running(plan.name, plan.listen, process, lambda: [process.pid], notes=notes)


@dataclass(frozen=True)
class Kind:
    """One row per peer: its program, the package that brings it, how its version is asked, how it starts."""

    program: str
    package: str
    version: tuple[str, ...]
    start: Callable[[Lab, Plan], Running] | None


KINDS: dict[str, Kind] = {
    "direct": Kind("nsd", "nsd", ("nsd", "-v"), None),
    "ns7": Kind("", "", (), _start_ns7),
    "dnsdist": Kind("dnsdist", "dnsdist", ("dnsdist", "--version"), _start_dnsdist),
    "nginx": Kind("nginx", "nginx libnginx-mod-stream", ("nginx", "-v"), _start_nginx),
    "uvproxy": Kind("", "", (), _start_uvproxy),
}


def missing(name: str, ns7_command: str = ns7.COMMAND) -> str | None:
    """Why this peer cannot run here, with what to install; None when it can."""
    if name == "ns7":
        return ns7.missing(ns7_command)
    kind = KINDS[name]
    if kind.program and not shutil.which(kind.program):
        return f"{kind.program} is not installed: apt install {kind.package}"
    return None


def versions(names: Sequence[str]) -> dict[str, str]:
    """What the programs of a run say about their versions; ns7's is the commit of the run."""
    kinds = [KINDS[name] for name in ("direct", *names)]
    asked = {kind.program: kind.version for kind in kinds if kind.version}
    asked["dnsperf"] = ("dnsperf", "-h")
    found: dict[str, str] = {}
    for program, argv in asked.items():
        if shutil.which(program):
            done = subprocess.run(argv, capture_output=True, text=True, timeout=10)
            number = re.search(r"\d+(?:\.\d+)+", done.stdout + done.stderr)
            found[program] = number[0] if number else "unknown"
    return found


def start(
    lab: Lab, name: str, backends: servers.Servers, count: int, workers: int, command: str, extra: str = ""
) -> Running:
    """Start one peer toward the first `count` servers and wait until it answers a query."""
    kind = KINDS[name]
    if kind.start is None:
        return Running(name, backends.addresses[0], backends.processes[0], lambda: [backends.processes[0].pid])
    listen = Address("127.0.0.1", free_port())
    plan = Plan(f"{name}-{listen.port}", listen, backends.first(count), workers, command, extra=extra)
    running = kind.start(lab, plan)
    running.name = name
    if not wait_answer(plan.listen, servers.PROBE, time.monotonic() + START_SECONDS, running.process.alive):
        words = running.process.last_words()
        lab.stop(running.process)
        raise LabError(f"{name} did not answer within {START_SECONDS:g} s: {words}")
    return running
