"""The field of the fault trials: a client, a director, name servers behind a delay line; what can break there."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from benchmarks import meter, ns7, servers
from benchmarks.faults.backends import BACKENDS, Backend
from benchmarks.faults.killable import KILLER
from benchmarks.lab import Address, Lab, LabError, Process
from benchmarks.load import query, wait_answer
from benchmarks.peers import Running
from tests.helpers.network import Network
from tests.helpers.unit import Manager

PORT = 5300
SERVERS = ("s1", "s2")
MANY = ("s1", "s2", "s3", "s4")
DROPPED = "drop"  # the first label of names that a test may have dropped
START_SECONDS = 15.0


class Field:
    """`latency` is the round trip to a server in seconds; tcp: clients ask over TCP."""

    def __init__(self, lab: Lab, latency: float, backend: Backend = BACKENDS["nsd"], tcp: bool = False,
                 names: Sequence[str] = SERVERS) -> None:
        self.lab, self.latency, self.tcp, self.names = lab, latency, tcp, names
        self.network = Network(
            {"client": 1, "director": 2, **{name: 11 + number for number, name in enumerate(names)}}, delayed=names)
        self.addresses = {name: Address(self.network[name].address4, PORT) for name in names}
        self.queries = _write(lab.folder / "queries.txt", backend.queries())
        self.bad_queries = _write(lab.folder / "bad.txt", f"{DROPPED}.{servers.ZONE} A\n")
        backend.prepare(lab.folder)
        self._backend = backend
        self._processes: dict[str, Process] = {}
        self.balancer: Running | None = None    # of the present trial
        self.manager: Manager | None = None  # what ns7 runs under, where it matters
        self.upgraded: list[float] = []     # when, CLOCK_MONOTONIC

    def restore(self) -> None:
        """Everything whole again, all servers answering."""
        for name in self.names:
            self.network.allow(name)
            self.network.mend(name)
            self.network.delay(name, self.latency / 2)
            self.thaw(name)
            if name in self._processes and not self._processes[name].alive():
                self.lab.stop(self._processes.pop(name))
            if name not in self._processes:
                self.start(name)
        for name in self.names:
            with self.network["director"].entered():
                process = self._processes[name]
                if not wait_answer(
                    self.addresses[name], servers.PROBE, time.monotonic() + START_SECONDS, process.alive
                ):
                    raise LabError(f"{name} does not answer: {process.last_words()}")

    def start(self, name: str) -> None:
        """Start the name server; it answers a moment later."""
        argv = self._backend.argv(self.lab.folder, name, self.addresses[name])
        self._processes[name] = self.lab.start(name, [*self.network[name].prefix, *argv])

    def dead(self) -> list[str]:
        """The servers that have ended by themselves."""
        return [name for name, process in self._processes.items() if not process.alive()]

    def kill(self, name: str) -> None:
        self._signal(name, signal.SIGKILL)
        self.lab.stop(self._processes.pop(name))

    def freeze(self, name: str) -> None:
        self._signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        self._signal(name, signal.SIGCONT)

    def _signal(self, name: str, number: signal.Signals) -> None:
        process = self._processes.get(name)
        for pid in meter.tree(process.pid) if process else ():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def change(self) -> None:
        """Change the balancer's servers again and again."""
        if self.balancer is None or self.balancer.change is None:
            raise LabError("this balancer cannot be changed while it runs")
        self.balancer.change()

    def refuse(self, name: str) -> None:
        """As if nothing listened, from this very moment; `network.allow` is the return."""
        self.network.drop(name, f"tcp dport {PORT}", verdict="reject with tcp reset")
        self.network.drop(name, f"udp dport {PORT}", verdict="reject with icmpx port-unreachable")

    def drop_bad(self, name: str) -> None:
        """Swallow the queries for bad names and no others."""
        label = len(DROPPED).to_bytes(1, "big") + DROPPED.encode()
        # Bits behind the UDP header's begin: its 8 bytes, the DNS header's 12, then the name.
        self.network.drop(name, f"udp dport {PORT} @th,160,{8 * len(label)} 0x{label.hex()}")

    def upgrade(self, times: int) -> None:
        """`ns7 upgrade` so often, with one between that finds its file wrong and must change nothing."""
        assert self.balancer is not None and self.balancer.ns7 is not None
        balancer = self.balancer.ns7
        self.upgraded = []
        good = balancer.config.read_text()
        for turn in range(times):
            if turn == times // 2:
                balancer.config.write_text(good + "\n[no.such.section]\n")
                with suppress(LabError):
                    balancer.upgrade()
                    raise AssertionError("an upgrade to a file that is wrong was not refused")
                balancer.config.write_text(good)
            balancer.upgrade()
            self.upgraded.append(time.monotonic())

    def restart(self) -> None:
        """As a service manager does it."""
        assert self.balancer is not None
        process = self.balancer.process
        if self.manager is not None:
            process.popen = self.manager.restart()
        else:
            self.lab.restart(process)

    def ask_killer(self) -> None:
        """One query for the balancer that ends whoever answers it."""
        assert self.balancer is not None
        with self.network["client"].socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(query((f"{KILLER}.{servers.ZONE}", "A"), 1), self.balancer.target)

    def asked(self, name: str) -> int:
        """Queries that came to the server: datagrams that its host has taken for its sockets; over TCP what ns7 says
        that it sent there, and 0 of others, for segments are no queries."""
        if self.tcp:
            if self.balancer is None or self.balancer.ns7 is None:
                return 0
            found = ns7.find_service(self.balancer.ns7.status(), "bench")["servers"]
            return int(found[self.names.index(name)]["tcp"]["queries"])
        with self.network[name].entered():
            lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
        return udp_in(lines)

    def close(self) -> None:
        for name in list(self._processes):
            self.thaw(name)
            self.lab.stop(self._processes.pop(name))
        self.network.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def udp_in(lines: list[str]) -> int:
    """InDatagrams of /proc/net/snmp: a line of names, then one of values."""
    names, values = (line.split() for line in lines if line.startswith("Udp:"))
    return int(values[names.index("InDatagrams")])


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
