"""ns7 as the benchmarks use it: a configuration, `ns7 run`, and the numbers of `ns7 status --json`."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.lab import ROOT, Address, Lab, LabError, Process

COMMAND = f"{shlex.quote(sys.executable)} -m balancer"


@dataclass(frozen=True)
class Service:
    """One [[service]]; a server is an address and its weight."""

    name: str
    listen: Address
    servers: Sequence[tuple[Address, int]]
    scheduler: str = "wlc"
    udp_timeout: str = "2s"


def config_text(services: Sequence[Service], workers: int, control: Path) -> str:
    """The TOML file; everything not named here keeps its default."""
    parts = [
        f'[process]\nworkers = {workers}\nstate_dir = "{control.parent}/state"\n\n'
        f'[admin]\nsocket = "{control}"\n'
    ]
    for service in services:
        parts.append(
            f'[[service]]\nname = "{service.name}"\nlisten = ["{service.listen}"]\n'
            f'scheduler = "{service.scheduler}"\nudp_timeout = "{service.udp_timeout}"\n'
        )
        for n, (address, weight) in enumerate(service.servers, 1):
            parts.append(f'[[service.server]]\nname = "s{n}"\naddress = "{address}"\nweight = {weight}\n')
    return "\n".join(parts)


def server_queries(status: dict[str, Any], service: str) -> list[int]:
    """Queries sent to each server of the service so far, in configuration order."""
    return [int(server["queries"]) for server in find_service(status, service)["servers"]]


def find_service(status: dict[str, Any], name: str) -> dict[str, Any]:
    for service in status["services"]:
        if service["name"] == name:
            found: dict[str, Any] = service
            return found
    raise LabError(f"ns7 status knows no service {name!r}")


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1]


@dataclass(frozen=True)
class Balancer:
    """A started ns7."""

    process: Process
    command: str
    control: Path

    def status(self) -> dict[str, Any]:
        """Ask the running process; LabError when it does not tell."""
        argv = [*shlex.split(self.command), "status", "--json", "--socket", str(self.control)]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=10, cwd=ROOT)
        except subprocess.TimeoutExpired as exc:
            raise LabError("ns7 status did not answer within 10 s") from exc
        if done.returncode != 0:
            raise LabError(f"ns7 status: exit code {done.returncode}: {last_line(done.stderr)}")
        try:
            status: dict[str, Any] = json.loads(done.stdout)
        except json.JSONDecodeError as exc:
            raise LabError(f"ns7 status is no JSON: {done.stdout[:200]!r}") from exc
        return status

    def workers(self) -> list[int]:
        return [int(worker["pid"]) for worker in self.status()["workers"]]

    def wait_idle(self, service: str, seconds: float) -> dict[str, Any]:
        """Wait until nothing of the service is in flight; returns the last status either way."""
        deadline = time.monotonic() + seconds
        while True:
            status = self.status()
            if find_service(status, service)["inflight"] == 0 or time.monotonic() > deadline:
                return status
            time.sleep(0.2)


def start(
    lab: Lab, name: str, services: Sequence[Service], workers: int = 1, command: str = COMMAND
) -> Balancer:
    """Write the configuration and start `ns7 run`; the caller waits until it answers."""
    config = lab.folder / f"{name}.toml"
    control = lab.folder / f"{name}.sock"
    config.write_text(config_text(services, workers, control))
    process = lab.start(name, [*shlex.split(command), "run", "-c", str(config)])
    return Balancer(process, command, control)


def missing(command: str = COMMAND) -> str | None:
    """Why ns7 cannot be run, None when it can."""
    try:
        done = subprocess.run(
            [*shlex.split(command), "--help"], capture_output=True, text=True, timeout=20, cwd=ROOT
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return f"ns7 cannot be run: {exc}"
    if done.returncode == 0:
        return None
    return f"ns7 cannot be run (build it: python setup.py build_ext --inplace): {last_line(done.stderr)}"
