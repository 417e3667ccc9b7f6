"""ns7 as the benchmarks use it: a configuration, `ns7 run`, and requests over its control socket."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.lab import ROOT, Address, Lab, LabError, Process
from tests.helpers.processes import Followed
from tests.helpers.unit import Manager

COMMAND = f"{shlex.quote(sys.executable)} -m balancer"
Tables = Mapping[str, Mapping[str, str]]  # of the configuration: table → key → value as TOML writes it


@dataclass(frozen=True)
class Service:
    """One [[service]]; a server is an address and its weight. `more` are further addresses to listen on."""

    name: str
    listen: Address
    servers: Sequence[tuple[Address, int]]
    scheduler: str = "wlc"
    udp_timeout: str = "2s"
    more: Sequence[Address] = ()
    extra: str = ""                     # further lines of the section


def config_text(services: Sequence[Service], workers: int, control: Path, more: Tables | None = None) -> str:
    """The TOML file; everything not named here keeps its default."""
    tables: dict[str, dict[str, str]] = {
        "process": {"workers": str(workers), "state_dir": f'"{control.parent}/state"'},
        "admin": {"socket": f'"{control}"', "listen": "[]"},
    }
    for name, settings in (more or {}).items():
        tables.setdefault(name, {}).update(settings)
    parts = [
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())
        for name, settings in tables.items()
    ]
    for service in services:
        listen = ", ".join(f'"{address}"' for address in (service.listen, *service.more))
        parts.append(
            f'[[service]]\nname = "{service.name}"\nlisten = [{listen}]\n'
            f'scheduler = "{service.scheduler}"\nudp_timeout = "{service.udp_timeout}"\n{service.extra}'
            '[service.admit]\ntransfer = ["127.0.0.0/8"]\n'
        )
        for address, weight in service.servers:
            name = server_name(address)
            parts.append(f'[[service.server]]\nname = "{name}"\naddress = "{address}"\nweight = {weight}\n')
    return "\n".join(parts)


def server_name(address: Address) -> str:
    """The same in every configuration."""
    return f"{address.host}-{address.port}"


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
    config: Path
    control: Path

    def request(self, verb: str, seconds: float = 10, **fields: Any) -> dict[str, Any]:
        """One request over the control socket; LabError when it is refused or not answered."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(seconds)
                sock.connect(str(self.control))
                sock.sendall(json.dumps({"verb": verb, **fields}).encode() + b"\n")
                answer = json.loads(sock.makefile().readline())
        except (OSError, ValueError) as exc:
            raise LabError(f"ns7 {verb}: {exc or 'no answer'}") from exc
        if not answer["ok"]:
            raise LabError(f"ns7 {verb}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def status(self) -> dict[str, Any]:
        return self.request("status")

    def reload(self, text: str, seconds: float = 30) -> None:
        """Apply another configuration; LabError when it is refused."""
        self.config.write_text(text)
        self.request("reload", seconds)

    def upgrade(self) -> None:
        """`ns7 upgrade`, to the same program; LabError when it is refused."""
        self.process.popen = Followed(self.request("upgrade", 120)["pid"])

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
    lab: Lab,
    name: str,
    services: Sequence[Service],
    workers: int = 1,
    command: str = COMMAND,
    more: Tables | None = None,
    prefix: Sequence[str] = (),
    manager: Manager | None = None,
) -> Balancer:
    """Write the configuration and start `ns7 run`, under a manager if given; the caller waits until it answers."""
    config = lab.folder / f"{name}.toml"
    control = lab.folder / f"{name}.sock"
    config.write_text(config_text(services, workers, control, more))
    shutil.rmtree(lab.folder / "state", ignore_errors=True)     # what an earlier trial changed live
    argv = [*prefix, *shlex.split(command), "run", "-c", str(config)]
    if manager is None:
        process = lab.start(name, argv)
    else:
        log = lab.folder / f"{name}.log"
        process = Process(name, manager.start(argv, os.environ, log), log, argv)
        lab.processes.append(process)
    return Balancer(process, config, control)


def accepts(lab: Lab, text: str, command: str = COMMAND) -> bool:
    """Whether `ns7 check` finds nothing wrong with this configuration."""
    config = lab.folder / "checked.toml"
    config.write_text(text)
    argv = [*shlex.split(command), "check", "-c", str(config)]
    return subprocess.run(argv, capture_output=True, timeout=30, cwd=ROOT).returncode == 0


def missing(command: str = COMMAND) -> str | None:
    """Why ns7 cannot be run, None when it can."""
    try:
        done = subprocess.run([*shlex.split(command), "--help"], capture_output=True, text=True, timeout=20, cwd=ROOT)
    except (OSError, subprocess.TimeoutExpired) as exc:
        return f"ns7 cannot be run: {exc}"
    if done.returncode == 0:
        return None
    return f"ns7 cannot be run (build it: python setup.py build_ext --inplace): {last_line(done.stderr)}"
