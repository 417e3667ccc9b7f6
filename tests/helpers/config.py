"""The configuration files of the scenarios: one service, everything not named keeps its default. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Server:
    """One [[service.server]]."""

    address: str
    weight: int | None = None
    name: str = ""
    source: str = ""
    sockets: int | None = None
    tcp_connections: int | None = None

    def text(self, number: int) -> str:
        lines = [f'name = "{self.name or f"s{number}"}"', f'address = "{self.address}"']
        lines += [f"weight = {self.weight}"] if self.weight is not None else []
        lines += [f'source = "{self.source}"'] if self.source else []
        lines += [f"sockets = {self.sockets}"] if self.sockets is not None else []
        lines += [f"tcp_connections = {self.tcp_connections}"] if self.tcp_connections is not None else []
        return "[[service.server]]\n" + "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Settings:
    """What a scenario sets; `servers` are addresses or `Server`s."""

    servers: Sequence[str | Server]
    listen: Sequence[str]
    scheduler: str | None = None
    udp_timeout: str = "2s"
    slow_start: str = "0s"
    admit: Mapping[str, Sequence[str]] = field(default_factory=dict)
    workers: int = 1
    inflight_max: int | None = None
    worker_timeout: str = "1s"
    more: str = ""  # further sections, as they stand in the file
    http: Sequence[str] = ()
    service: Mapping[str, str | int] = field(default_factory=dict)  # any other key of [[service]]
    process: Mapping[str, str | int] = field(default_factory=dict)  # any other key of [process]

    def text(self, control: Path) -> str:
        """The TOML file, the control socket at `control`."""
        service = [
            "[[service]]",
            'name = "dns"',
            f"listen = {_strings(self.listen)}",
            f'udp_timeout = "{self.udp_timeout}"',
            f'slow_start = "{self.slow_start}"',
        ]
        service += [f'scheduler = "{self.scheduler}"'] if self.scheduler else []
        service += [f"{key} = {json.dumps(value)}" for key, value in self.service.items()]
        if self.admit:
            service += ["[service.admit]"]
            service += [f"{kind} = {_strings(prefixes)}" for kind, prefixes in self.admit.items()]
        servers = [server if isinstance(server, Server) else Server(server) for server in self.servers]
        process = ["[process]", f"workers = {self.workers}", f'state_dir = "{control.parent}/state"']
        process += [f'worker_timeout = "{self.worker_timeout}"']
        process += [f"inflight_max = {self.inflight_max}"] if self.inflight_max is not None else []
        process += [f"{key} = {json.dumps(value)}" for key, value in self.process.items()]
        return "\n".join(
            [
                *service,
                *(server.text(number) for number, server in enumerate(servers, 1)),
                *process,
                "[admin]",
                f'socket = "{control}"',
                f"listen = {_strings(self.http)}",
                self.more,
                "",
            ]
        )


def _strings(values: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"
