"""What the supervisor owns: table, slots and sockets of every worker, and how a configuration becomes them.

A worker is handed all of it when it starts, so a new one goes on where the last one stopped. Pure ownership: no
process is started and no loop is used here.
"""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from balancer.datapath.admission import ranges
from balancer.datapath.query import Slots, slots_size
from balancer.errors import StartError
from balancer.process import sockets
from balancer.process.messages import Admit, Attach, Go, Listen, Message, Reach
from balancer.table.table import SERVERS_PER_SERVICE, ConfigTable, Row, allocate, config_size, read_only, row_size

if TYPE_CHECKING:
    from balancer.config import Config
    from balancer.config.model import Server, Service

Send = Callable[[Message, list[int]], None]


class WorkerState:
    """One worker's memory and sockets, kept from one process to the next."""

    def __init__(self, services: int, inflight_max: int) -> None:
        self.row_fd = allocate("ns7-row", row_size(services))
        self.row = Row(self.row_fd, True, services)
        self.row_view_fd = read_only(self.row_fd)
        self.slots_fd = allocate("ns7-slots", slots_size(inflight_max))
        Slots(self.slots_fd, True, services, True)        # writes the header
        self.listeners: list[tuple[int, socket.socket]] = []
        self.servers: dict[tuple[int, int], list[socket.socket]] = {}


class State:
    """Everything that outlives a worker."""

    def __init__(self, config: Config, workers: int) -> None:
        _raise_descriptor_limit()
        self.absent = [address for service in config.services for address in service.listen
                       if not sockets.probe_listen(address)]
        self.config = config
        self.config_fd = allocate("ns7-config", config_size(len(config.services)))
        self.table = ConfigTable(self.config_fd, True, len(config.services))
        self.config_view_fd = read_only(self.config_fd)
        self.workers = [WorkerState(len(config.services), config.process.inflight_max) for _ in range(workers)]
        for number, service in enumerate(config.services):
            self.table.set_service(number, service.name, service.scheduler, round(service.udp_timeout * 1e9))
            for slot, server in enumerate(service.servers):
                self.table.add_server(number, slot, server.name, str(server.address), server.weight)
            for worker in self.workers:
                for address in service.listen:
                    worker.listeners.append((number, sockets.open_listener(address, config.process.udp_buffer)))
        self.table.publish()
        self.unreached: dict[str, str] = {}         # "service/server" → why it has no sockets

    def _server(self, number: int, name: str) -> Server | None:
        return next((server for server in self.config.services[number].servers if server.name == name), None)

    def reach(self, worker: WorkerState) -> list[Reach]:
        """Open what is missing toward present servers; the messages for what was opened, fds in `worker.servers`."""
        opened = []
        for number, service in enumerate(self.config.services):
            for entry in self.table.servers(number):
                server = self._server(number, entry.name)
                if entry.state != "present" or (number, entry.slot) in worker.servers or server is None:
                    continue
                ends: list[socket.socket] = []
                count = server.sockets or sockets.sockets_per_server(len(service.servers))
                try:
                    for _ in range(count):
                        ends.append(sockets.open_server(server.address, _text(server.source),
                                                        self.config.process.udp_buffer))
                except OSError as error:
                    for end in ends:
                        end.close()
                    self.unreached[f"{service.name}/{server.name}"] = error.strerror or str(error)
                    continue
                self.unreached.pop(f"{service.name}/{server.name}", None)
                worker.servers[number, entry.slot] = ends
                opened.append(Reach(number, entry.slot, True))
        return opened

    def hand_over(self, worker: WorkerState, send: Send, first: bool) -> None:
        """Everything a new process of this worker needs, in order."""
        others = [other.row_view_fd for other in self.workers if other is not worker]
        send(Attach(len(others)), [self.config_view_fd, worker.row_fd, worker.slots_fd, *others])
        for message in self.admissions():
            send(message, [])
        for number, listener in worker.listeners:
            send(Listen(number), [listener.fileno()])
        for (number, slot), ends in worker.servers.items():
            send(Reach(number, slot, first), [end.fileno() for end in ends])
        send(Go(), [])

    def admissions(self) -> list[Admit]:
        """The access lists of all services."""
        return [Admit(number, *([list(pair) for pair in ranges(networks)] for networks in (
            service.admit.query, service.admit.transfer, service.admit.update, service.admit.notify)))
            for number, service in enumerate(self.config.services)]

    def apply(self, config: Config) -> list[str]:
        """Take over changed servers, weights and timeouts; returns what changed, for the log.

        Raises StartError, and changes nothing, when something changed that only a restart can.
        """
        old, new = self.config, config
        fixed: list[tuple[str, object, object]] = [
            ("the list of services", [s.name for s in old.services], [s.name for s in new.services])]
        if not any(before != after for _, before, after in fixed):
            for one, two in zip(old.services, new.services, strict=True):
                fixed.append((f"{one.name}: listen", one.listen, two.listen))
        fixed += [("process", old.process, new.process), ("admin", old.admin, new.admin)]
        blocked = [what for what, before, after in fixed if before != after]
        if blocked:
            raise StartError(f"these changes need a restart: {', '.join(blocked)}")
        for number, service in enumerate(new.services):
            added = [server for server in service.servers if self._entry(number, server) is None]
            self._reclaim(number)
            if len(added) > len(self.table.free_slots(number)):
                raise StartError(f"{service.name}: no server slot is free ({SERVERS_PER_SERVICE} in use)")
        changes: list[str] = []
        for number, service in enumerate(new.services):
            changes += self._apply_service(number, service)
        self.config = config
        if changes:
            self.table.publish()
        return changes

    def _entry(self, number: int, server: Server) -> int | None:
        return next((entry.slot for entry in self.table.servers(number)
                     if entry.state == "present" and entry.name == server.name
                     and entry.address == str(server.address)), None)

    def _apply_service(self, number: int, service: Service) -> list[str]:
        changes = []
        old = self.config.services[number]
        if (service.udp_timeout, service.scheduler) != (old.udp_timeout, old.scheduler):
            self.table.set_service(number, service.name, service.scheduler, round(service.udp_timeout * 1e9))
            changes.append(f"{service.name}: udp_timeout {service.udp_timeout:g} s, scheduler {service.scheduler}")
        if service.admit != old.admit:
            changes.append(f"{service.name}: access lists")
        before = {server.name: server for server in self.config.services[number].servers}
        for entry in self.table.servers(number):
            wanted = next((server for server in service.servers if server.name == entry.name), None)
            keep = wanted is not None and str(wanted.address) == entry.address and (
                (wanted.source, wanted.sockets) == (before[entry.name].source, before[entry.name].sockets))
            if entry.state == "present" and not keep:
                self.table.remove_server(number, entry.slot)
                changes.append(f"{service.name}: removed {entry.name} ({entry.address})")
        for server in service.servers:
            slot = self._entry(number, server)
            if slot is None:
                slot = self.table.free_slots(number)[0]
                self.table.add_server(number, slot, server.name, str(server.address), server.weight)
                changes.append(f"{service.name}: added {server.name} ({server.address}), weight {server.weight}")
            elif server.weight != before[server.name].weight:
                self.table.set_weight(number, slot, server.weight)
                changes.append(f"{service.name}: {server.name} weight {before[server.name].weight} → {server.weight}")
        return changes

    def _reclaim(self, number: int) -> None:
        """Free the slots of removed servers that every worker has let go."""
        for entry in self.table.servers(number):
            if entry.state != "removed":
                continue
            seen = all(worker.row.generation_seen >= self.table.removed_at(number, entry.slot)
                       and worker.row.server(number, entry.slot)["inflight"] == 0 for worker in self.workers)
            if seen:
                self.table.free_server(number, entry.slot)

    def drop_removed(self) -> None:
        """Close our ends toward servers that are removed and have nothing in flight."""
        for number in range(self.table.services):
            removed = [entry.slot for entry in self.table.servers(number) if entry.state == "removed"]
            for worker in self.workers:
                for slot in removed:
                    if worker.row.server(number, slot)["inflight"] == 0 and (
                            worker.row.generation_seen >= self.table.removed_at(number, slot)):
                        for end in worker.servers.pop((number, slot), []):
                            end.close()

    def heartbeat_age(self, worker: WorkerState) -> float:
        """Seconds since the worker last swept."""
        return max(0.0, (time.monotonic_ns() - worker.row.heartbeat_ns) / 1e9)


def _text(address: object) -> str | None:
    return None if address is None else str(address)


def _raise_descriptor_limit() -> None:
    # 256 servers with 4 sockets for each of many workers, and as many again while they are handed over.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0))
