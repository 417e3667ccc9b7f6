"""What the supervisor owns: table, slots and sockets of every worker, and how a configuration becomes them.

A worker is handed all of it when it starts, so a successor goes on where the last one stopped. Servers, weights,
rules and access lists change in place, through the table. What only new memory or other sockets can bring (listen
addresses, number of workers, buffers, services) is a new `Crew` beside the old one: it listens on the same sockets
where they stay the same, and the old one ends when it has nothing in flight. Pure ownership: no process is started
and no loop is used here.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from balancer.datapath.admission import ranges
from balancer.datapath.query import Slots, slots_size
from balancer.errors import StartError
from balancer.process import sockets
from balancer.process.messages import Admit, Attach, Go, Listen, Message, Reach, TcpLimits, TcpReach
from balancer.table.table import (
    SERVERS_PER_SERVICE,
    SERVICES,
    ConfigTable,
    Row,
    allocate,
    config_size,
    read_only,
    row_size,
)
from balancer.table.verdicts import Verdicts, verdicts_size
from balancer.table.view import TableView

if TYPE_CHECKING:
    from balancer.config import Config, Endpoint
    from balancer.config.model import Server, Service

DESCRIBED = ("scheduler", "udp_timeout", "slow_start", "retry", "retry_after", "retry_budget", "retry_rcodes",
             "suspend", "min_alive", "when_all_down")
TCP_KEYS = ("tcp_timeout", "tcp_idle", "tcp_message_time", "tcp_lifetime", "tcp_queries", "tcp_message_reads",
            "tcp_connections_max", "tcp_per_client")
LEAST_PER_CLIENT = 8        # of tcp_per_client in one worker: a client's few connections may all meet the same one

Send = Callable[[Message, list[int]], None]


class Place(NamedTuple):
    """A listening socket's place: which address, for which worker of a crew."""

    address: Endpoint
    worker: int


class WorkerState:
    """One worker's memory and sockets, kept from one process to the next. `listeners`: (service, socket)."""

    def __init__(self, inflight_max: int) -> None:
        self.row_fd = allocate("ns7-row", row_size())
        self.row = Row(self.row_fd, True, True)
        self.row_view_fd = read_only(self.row_fd)
        self.slots_fd = allocate("ns7-slots", slots_size(inflight_max))
        Slots(self.slots_fd, True, SERVICES, True)          # writes the header
        self.listeners: list[tuple[int, socket.socket]] = []
        self.tcp_listeners: list[tuple[int, socket.socket]] = []
        self.servers: dict[tuple[int, int], list[socket.socket]] = {}

    def heartbeat_age(self) -> float:
        """Seconds since the worker last swept."""
        return float(max(0.0, (time.monotonic_ns() - self.row.heartbeat_ns) / 1e9))

    def inflight(self) -> int:
        """Queries pending, of all services."""
        return sum(int(self.row.service(service)["inflight"]) for service in range(SERVICES))

    def close(self) -> None:
        """The worker is gone for good."""
        for end in [end for ends in self.servers.values() for end in ends]:
            end.close()
        for descriptor in (self.row_fd, self.row_view_fd, self.slots_fd):
            os.close(descriptor)


class Crew:
    """The workers of one shape of the configuration, and the services they know by number."""

    def __init__(self, workers: list[WorkerState], services: tuple[int, ...]) -> None:
        self.workers, self.services = workers, services


class State:
    """Everything that outlives a worker."""

    def __init__(self, config: Config, workers: int) -> None:
        _raise_descriptor_limit()
        self.absent = [address for service in config.services for address in service.listen
                       if workers and not sockets.probe_listen(address)]
        self.config = config
        self.config_fd = allocate("ns7-config", config_size())
        self.table = ConfigTable(self.config_fd, True, True)
        self.config_view_fd = read_only(self.config_fd)
        self.verdicts_fd = allocate("ns7-verdicts", verdicts_size())
        self.verdicts = Verdicts(self.verdicts_fd, True, True)
        self.verdicts_view_fd = read_only(self.verdicts_fd)
        # Counters of workers that are gone for good, so that totals never fall.
        self.past_fd = allocate("ns7-past", row_size())
        self.past = Row(self.past_fd, True, True)
        self.past_view_fd = read_only(self.past_fd)
        self.listeners: dict[Place, socket.socket] = {}
        self.tcp_listeners: dict[Place, socket.socket] = {}
        self.unreached: dict[str, str] = {}         # "service/server" → why it has no sockets
        self.retiring: list[Crew] = []
        for number, service in enumerate(config.services):
            self._describe(number, service)
            for slot, server in enumerate(service.servers):
                self.table.add_server(number, slot, server.name, str(server.address), server.weight, 0, server.state)
            self.table.set_primary(number, self._primary(number, service))
        self.table.publish()
        self._open_listeners(config, workers)
        self.crew = self._new_crew(config, workers)

    # Views

    def crews(self) -> list[Crew]:
        """All crews that have processes: the present one first."""
        return [self.crew, *self.retiring]

    def view(self) -> TableView:
        """The table and all rows, those of the past first."""
        rows = [self.past, *(worker.row for crew in self.crews() for worker in crew.workers)]
        return TableView(self.table, rows, self.verdicts)

    def view_descriptors(self) -> list[int]:
        """Read-only descriptors in the order of `view`."""
        return [self.past_view_fd, *(worker.row_view_fd for crew in self.crews() for worker in crew.workers)]

    def number(self, name: str) -> int | None:
        """The slot of a present service."""
        return next((number for number in self.table.services if self.table.service_name(number) == name), None)

    def _server(self, number: int, name: str) -> Server | None:
        service = next((one for one in self.config.services if one.name == self.table.service_name(number)), None)
        return next((server for server in service.servers if server.name == name), None) if service else None

    # Sockets

    def _open_listeners(self, config: Config, workers: int) -> None:
        opened: list[Place] = []
        try:
            for service in config.services:
                for place in (Place(address, worker) for address in service.listen for worker in range(workers)):
                    if place not in self.listeners:
                        self.listeners[place] = sockets.open_listener(place.address, config.process.udp_buffer)
                        opened.append(place)
                        self.tcp_listeners[place] = sockets.open_tcp_listener(place.address)
                    else:
                        sockets.set_buffers(self.listeners[place], config.process.udp_buffer)
        except StartError:
            for place in opened:
                self.listeners.pop(place).close()
                if place in self.tcp_listeners:
                    self.tcp_listeners.pop(place).close()
            raise

    def _new_crew(self, config: Config, workers: int) -> Crew:
        members = [WorkerState(config.process.inflight_max) for _ in range(workers)]
        numbers = []
        for service in config.services:
            number = self.number(service.name)
            assert number is not None
            numbers.append(number)
            for index, worker in enumerate(members):
                worker.listeners += [(number, self.listeners[Place(address, index)]) for address in service.listen]
                worker.tcp_listeners += [(number, self.tcp_listeners[Place(address, index)])
                                         for address in service.listen]
        return Crew(members, tuple(numbers))

    def reach(self, worker: WorkerState) -> list[Reach]:
        """Open what is missing toward present servers; the messages for what was opened, fds in `worker.servers`."""
        opened = []
        for service in self.config.services:
            number = self.number(service.name)
            if number is None or not any(number == known for known, _ in worker.listeners):
                continue
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
                opened.append(Reach(number, entry.slot))
        return opened

    def hand_over(self, crew: Crew, worker: WorkerState, send: Send) -> None:
        """Everything a new process of this worker needs, in order."""
        self._drop_closed(worker)
        others = [other.row_view_fd for other in crew.workers if other is not worker]
        send(Attach(len(others)), [self.config_view_fd, self.verdicts_view_fd, worker.row_fd, worker.slots_fd,
                                    *others])
        for message in (*self.admissions(crew), *self.tcp(crew)):
            send(message, [])
        for number, listener in worker.listeners:
            send(Listen(number), [listener.fileno()])
        for number, listener in worker.tcp_listeners:
            send(Listen(number, "tcp"), [listener.fileno()])
        for (number, slot), ends in worker.servers.items():
            send(Reach(number, slot), [end.fileno() for end in ends])
        send(Go(), [])

    def _drop_closed(self, worker: WorkerState) -> None:
        """Close our ends toward removed servers that the last process had let go: its successor must not open them,
        for the slot is free as soon as `reclaim` looks."""
        for number, slot in [pair for pair in worker.servers if worker.row.open_sockets(*pair) == 0]:
            if any(entry.slot == slot and entry.state == "removed" for entry in self.table.servers(number)):
                for end in worker.servers.pop((number, slot)):
                    end.close()

    def admissions(self, crew: Crew) -> list[Admit]:
        """The access lists of the services that a crew knows."""
        found = []
        for service in self.config.services:
            number = self.number(service.name)
            if number is not None and number in crew.services:
                found.append(Admit(number, *([list(pair) for pair in ranges(networks)] for networks in (
                    service.admit.query, service.admit.transfer, service.admit.update, service.admit.notify))))
        return found

    def tcp(self, crew: Crew) -> list[TcpLimits | TcpReach]:
        """What a crew's workers need to know for TCP: each one's part of the limits, and where the servers are."""
        def part(limit: int) -> int:
            return -(-limit // len(crew.workers))

        messages: list[TcpLimits | TcpReach] = []
        for service in self.config.services:
            number = self.number(service.name)
            if number is None or number not in crew.services:
                continue
            timeout, idle, message, lifetime = (round(seconds * 1e9) for seconds in (
                service.tcp_timeout, service.tcp_idle, service.tcp_message_time, service.tcp_lifetime))
            per_client = max(part(service.tcp_per_client), min(service.tcp_per_client, LEAST_PER_CLIENT))
            messages.append(TcpLimits(number, timeout, idle, message, lifetime, service.tcp_queries,
                                      service.tcp_message_reads, part(service.tcp_connections_max), per_client))
            for entry in self.table.servers(number):
                server = self._server(number, entry.name)
                if entry.state == "present" and server is not None:
                    messages.append(TcpReach(number, entry.slot, server.address.host, server.address.port,
                                             _text(server.source), part(server.tcp_connections)))
        return messages

    def _primary(self, number: int, service: Service) -> int | None:
        return next((entry.slot for entry in self.table.servers(number)
                     if entry.state == "present" and entry.name == service.primary), None)

    # Changes

    def reshapes(self, config: Config, workers: int) -> bool:
        """Whether this configuration needs a new crew."""
        return _shape(config, workers) != _shape(self.config, len(self.crew.workers))

    def apply(self, config: Config, workers: int) -> tuple[list[str], Crew | None]:
        """Take over a changed configuration; what changed, for the log, and the old crew if there is a new one.

        Raises StartError, and changes nothing, when something changed that only a restart can, or cannot be served.
        """
        old = self.config
        fixed = (("process.state_dir", old.process.state_dir, config.process.state_dir),
                 ("admin.socket", old.admin.socket, config.admin.socket), ("roles", old.roles, config.roles))
        if blocked := [what for what, before, after in fixed if before != after]:
            raise StartError(f"these changes need a restart: {', '.join(blocked)}")
        self._check_room(config)
        reshaped = self.reshapes(config, workers)
        if reshaped:
            # An address that a retiring crew still holds is ours, though no new query reaches it there.
            ours = {listener.getsockname()[:2] for crew in self.crews() for listener in _listeners(crew)}
            for address in {address for service in config.services for address in service.listen}:
                if (address.host, address.port) not in ours:
                    sockets.probe_listen(address)
            self._open_listeners(config, workers)
        changes = self._apply_services(config)
        self.config = config
        if changes or reshaped:
            self.table.publish()
        if not reshaped:
            return changes, None
        before, self.crew = self.crew, self._new_crew(config, workers)
        self.retiring.append(before)
        addresses = " ".join(str(address) for service in config.services for address in service.listen)
        return [*changes, f"{workers} workers, listening on {addresses}"], before

    def _check_room(self, config: Config) -> None:
        self.reclaim()
        fresh = 0
        for service in config.services:
            number = self.number(service.name)
            if number is None:
                fresh += 1
                continue
            added = [server for server in service.servers if self._entry(number, server) is None]
            if len(added) > len(self.table.free_slots(number)):
                raise StartError(f"{service.name}: no server slot is free ({SERVERS_PER_SERVICE} in use)")
        free = [number for number in range(SERVICES) if self.table.service_state(number) == "free"]
        if fresh > len(free):
            raise StartError(f"no service slot is free ({SERVICES} in use)")

    def _entry(self, number: int, server: Server) -> int | None:
        return next((entry.slot for entry in self.table.servers(number)
                     if entry.state == "present" and entry.name == server.name
                     and entry.address == str(server.address)), None)

    def _describe(self, number: int, service: Service) -> None:
        self.table.set_service(number, service.name, service.scheduler, round(service.udp_timeout * 1e9),
                               round(service.slow_start * 1e9))
        self.table.set_retry(number, service.retry == "on", round(service.retry_after * 1e9), service.retry_budget,
                             _retry_rcodes(service), service.suspend == "on", service.min_alive,
                             _when_all_down(service))

    def _apply_services(self, config: Config) -> list[str]:
        changes = []
        before = {service.name: service for service in self.config.services}
        for name in before.keys() - {service.name for service in config.services}:
            number = self.number(name)
            assert number is not None
            self.table.remove_service(number)
            changes.append(f"removed service {name}")
        for service in config.services:
            number = self.number(service.name)
            if number is not None:
                changes += self._apply_service(number, before[service.name], service)
                continue
            number = next(one for one in range(SERVICES) if self.table.service_state(one) == "free")
            self._describe(number, service)
            for slot, server in enumerate(service.servers):
                self.table.add_server(number, slot, server.name, str(server.address), server.weight, 0, server.state)
            self.table.set_primary(number, self._primary(number, service))
            changes.append(f"added service {service.name}")
        return changes

    def _apply_service(self, number: int, old: Service, service: Service) -> list[str]:
        changes = []
        if described := [f"{key} {getattr(service, key)}" for key in DESCRIBED
                         if getattr(service, key) != getattr(old, key)]:
            self._describe(number, service)
            changes.append(f"{service.name}: {', '.join(described)}")
        if any(getattr(service, key) != getattr(old, key) for key in TCP_KEYS):
            changes.append(f"{service.name}: TCP limits")
        if service.admit != old.admit:
            changes.append(f"{service.name}: access lists")
        before = {server.name: server for server in old.servers}
        for entry in self.table.servers(number):
            wanted = next((server for server in service.servers if server.name == entry.name), None)
            keep = wanted is not None and str(wanted.address) == entry.address and (
                (wanted.source, wanted.sockets) == (before[entry.name].source, before[entry.name].sockets))
            if entry.state == "present" and not keep:
                self.table.remove_server(number, entry.slot)
                changes.append(f"{service.name}: removed {entry.name} ({entry.address})")
        now = time.monotonic_ns()
        for server in service.servers:
            slot = self._entry(number, server)
            if slot is None:
                slot = self.table.free_slots(number)[0]
                self.table.add_server(number, slot, server.name, str(server.address), server.weight, now, server.state)
                changes.append(f"{service.name}: added {server.name} ({server.address}), weight {server.weight}")
                continue
            was = before[server.name]
            if server.weight != was.weight:
                self.table.set_weight(number, slot, server.weight, now)
                changes.append(f"{service.name}: {server.name} weight {was.weight} → {server.weight}")
            if server.state != was.state:
                self.table.set_ordered(number, slot, server.state, now)
                changes.append(f"{service.name}: {server.name} state {was.state} → {server.state}")
            if server.tcp_connections != was.tcp_connections:
                changes.append(f"{service.name}: {server.name} tcp_connections {server.tcp_connections}")
        primary = self._primary(number, service)
        if primary != self.table.primary(number):
            self.table.set_primary(number, primary)
            changes.append(f"{service.name}: primary {service.primary or 'none'}")
        return changes

    def reclaim(self) -> None:
        """Free the slots of removed servers that every worker has let go, and close our ends toward them."""
        workers = [worker for crew in self.crews() for worker in crew.workers]
        for number in range(SERVICES):
            if self.table.service_state(number) != "present":
                continue
            for entry in self.table.servers(number):
                if entry.state != "removed" or not all(
                        worker.row.generation_seen >= self.table.removed_at(number, entry.slot)
                        and worker.row.open_sockets(number, entry.slot) == 0 for worker in workers):
                    continue
                for worker in workers:
                    for end in worker.servers.pop((number, entry.slot), []):
                        end.close()
                    worker.row.clear_server(number, entry.slot)
                self.past.clear_server(number, entry.slot)
                self.table.free_server(number, entry.slot)

    def silence(self, crew: Crew) -> None:
        """Let nothing new arrive where only this crew listens; what waits in its sockets stays readable."""
        used = set(_listeners(self.crew)) if crew is not self.crew else set()
        for place, listener in list(self.listeners.items()):
            if listener not in used and listener in _listeners(crew):
                sockets.silence(self.listeners.pop(place))
                self.tcp_listeners.pop(place)       # its worker takes what waits there, and no more

    def bury(self, crew: Crew) -> None:
        """All processes of a retiring crew are gone: its counters become past, its memory and sockets are given up."""
        self.retiring.remove(crew)
        for worker in crew.workers:
            self.past.absorb(worker.row, crew.services)
            worker.close()
        kept = {listener for one in self.crews() for listener in _listeners(one)}
        for listener in set(_listeners(crew)) - kept:
            listener.close()
        kept = {listener for one in self.crews() for listener in _tcp_listeners(one)}
        for listener in set(_tcp_listeners(crew)) - kept:
            listener.close()
        known = {number for one in self.crews() for number in one.services}
        for number in range(SERVICES):
            if self.table.service_state(number) == "removed" and number not in known:
                self.table.free_service(number)
                self.past.clear_service(number)


def _listeners(crew: Crew) -> list[socket.socket]:
    return [listener for worker in crew.workers for _, listener in worker.listeners]


def _tcp_listeners(crew: Crew) -> list[socket.socket]:
    return [listener for worker in crew.workers for _, listener in worker.tcp_listeners]


def _shape(config: Config, workers: int) -> object:
    """What only a new crew can change."""
    process = config.process
    listen = {service.name: service.listen for service in config.services}
    return listen, workers, process.inflight_max, process.udp_buffer


def _when_all_down(service: Service) -> int:
    """As datapath/back.pxd numbers it."""
    from balancer.config.model import WHEN_ALL_DOWN

    return WHEN_ALL_DOWN.index(service.when_all_down)


def _retry_rcodes(service: Service) -> int:
    """The rcodes as a set of bits, as the table wants them."""
    from balancer.config.model import RETRY_RCODES

    return sum(1 << RETRY_RCODES[name] for name in set(service.retry_rcodes))


def _text(address: object) -> str | None:
    return None if address is None else str(address)


def _raise_descriptor_limit() -> None:
    # 256 servers with 4 sockets for each of many workers, and as many again while they are handed over.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0))
