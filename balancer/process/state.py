"""What the supervisor owns: table, slots and sockets of every worker, and how a configuration becomes them.

A worker is handed all of it when it starts, so a successor goes on where the last one stopped. Servers, weights,
rules and access lists change in place, through the table. What only new memory or other sockets can bring (listen
addresses, number of workers, buffers, services) is a new `Crew` beside the old one: it listens on the same sockets
where they stay the same, and the old one ends when it has nothing in flight. An upgrade (upgrade.py) does the same
between two supervisors: the new one begins with an `Inheritance`. Pure ownership: no process is started and no loop
is used here.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from balancer.datapath.admission import ranges
from balancer.datapath.query import Slots, slots_size
from balancer.errors import LayoutError, StartError
from balancer.process import sockets
from balancer.process.drops import Drops
from balancer.process.messages import Admit, Attach, Go, Listen, Message, Reach, TcpLimits, TcpReach
from balancer.table.table import (
    SERVERS_PER_SERVICE,
    SERVICES,
    ConfigTable,
    Row,
    ServerEntry,
    allocate,
    config_size,
    read_only,
    row_size,
)
from balancer.table.verdicts import Verdicts, verdicts_size
from balancer.table.view import TableView, difference

if TYPE_CHECKING:
    from balancer.config import Config, Endpoint
    from balancer.config.model import Server, Service

DESCRIBED = ("scheduler", "udp_timeout", "slow_start", "retry", "retry_after", "retry_budget", "retry_rcodes",
             "suspend", "min_alive", "when_all_down")
TCP_KEYS = ("tcp_timeout", "tcp_idle", "tcp_message_time", "tcp_lifetime", "tcp_queries", "tcp_message_reads",
            "tcp_connections_max", "tcp_per_client")
PROTOCOLS = ("udp", "tcp")

Send = Callable[[Message, list[int]], None]


class Place(NamedTuple):
    """A listening socket's place: "udp" or "tcp", which address, for which worker of a crew."""

    proto: str
    address: Endpoint
    worker: int


class Inheritance(NamedTuple):
    """What a supervisor begins with instead of nothing; it owns the descriptors.

    listeners: sockets that may be ours. config, rows: descriptors of the memory of a supervisor that still runs, its
    rows writable and written by it until it has ended; no config: there is no such supervisor. verdicts: on servers.
    """

    listeners: Sequence[socket.socket] = ()
    config: int | None = None
    rows: Sequence[int] = ()
    verdicts: int | None = None


NOTHING = Inheritance()


class WorkerState:
    """One worker's memory and sockets, kept from one process to the next. `listeners`: (service, proto, socket)."""

    def __init__(self, inflight_max: int) -> None:
        self.row_fd = allocate("ns7-row", row_size())
        self.row = Row(self.row_fd, True, True)
        self.row_view_fd = read_only(self.row_fd)
        self.slots_fd = allocate("ns7-slots", slots_size(inflight_max))
        Slots(self.slots_fd, True, SERVICES, True)          # writes the header
        self.listeners: list[tuple[int, str, socket.socket]] = []
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

    def __init__(self, config: Config, workers: int, inheritance: Inheritance = NOTHING) -> None:
        _raise_descriptor_limit()
        self.absent = [address for service in config.services for address in service.listen
                       if workers and not sockets.is_local(address)]
        self.config = config
        self.config_fd = allocate("ns7-config", config_size())
        self.inherited: list[Row] = []          # of the supervisor before, until it has ended
        self._inherited_fds = list(inheritance.rows)
        self._inherited_view_fds: list[int] = []
        self._carried: dict[str, Any] = {}      # counters by value so far, by service
        self.attached = self._attach(inheritance.config)
        self.table = ConfigTable(self.config_fd, True, not self.attached)
        self.config_view_fd = read_only(self.config_fd)
        self.verdicts_fd = allocate("ns7-verdicts", verdicts_size())
        self.verdicts = Verdicts(self.verdicts_fd, True, True)
        if inheritance.verdicts is not None:
            self._copy_verdicts(inheritance.verdicts)
        self.verdicts_view_fd = read_only(self.verdicts_fd)
        # Counters of workers that are gone for good, so that totals never fall.
        self.past_fd = allocate("ns7-past", row_size())
        self.past = Row(self.past_fd, True, True)
        self.past_view_fd = read_only(self.past_fd)
        self.listeners: dict[Place, socket.socket] = {}
        # Listening sockets that live on elsewhere when we close ours: what they get must never be turned away.
        self.lent: set[socket.socket] = set()
        self.unreached: dict[str, str] = {}         # "service/server" → why it has no sockets
        self.retiring: list[Crew] = []
        self.drops = Drops()
        self.crew = Crew([], ())
        if self.attached:
            self._check_room(config)
            self._apply_services(config, {})
        else:
            for number, service in enumerate(config.services):
                self._describe(number, service)
                for slot, server in enumerate(service.servers):
                    self.table.add_server(number, slot, server.name, str(server.address), server.weight, 0,
                                          server.state)
                self.table.set_primary(number, self._primary(number, service))
        self.table.publish()
        self._open_listeners(config, workers, inheritance.listeners)
        self.crew = self._new_crew(config, workers)

    def _attach(self, config: int | None) -> bool:
        """Begin with a copy of another supervisor's table and a view of its rows, if they are laid out as ours."""
        if config is None:
            return False
        try:
            ConfigTable(config)
            self.inherited = [Row(row, True) for row in self._inherited_fds]
        except LayoutError:
            self.inherited = []
            return False
        finally:
            data = os.pread(config, config_size(), 0)
            os.close(config)
        os.pwrite(self.config_fd, data, 0)
        self._inherited_view_fds = [read_only(row) for row in self._inherited_fds]
        return True

    def _copy_verdicts(self, verdicts: int) -> None:
        """Whoever was down stays down until the next probe. Of no use in slots that are not the same ones."""
        try:
            Verdicts(verdicts)
            if self.attached:
                os.pwrite(self.verdicts_fd, os.pread(verdicts, verdicts_size(), 0), 0)
        except LayoutError:
            pass
        finally:
            os.close(verdicts)

    # Views

    def crews(self) -> list[Crew]:
        """All crews that have processes: the present one first."""
        return [self.crew, *self.retiring]

    def view(self) -> TableView:
        """The table and all rows, those of the past first."""
        rows = [self.past, *self.inherited, *(worker.row for crew in self.crews() for worker in crew.workers)]
        return TableView(self.table, rows, self.verdicts)

    def view_descriptors(self) -> list[int]:
        """Read-only descriptors in the order of `view`."""
        return [self.past_view_fd, *self._inherited_view_fds,
                *(worker.row_view_fd for crew in self.crews() for worker in crew.workers)]

    def row_descriptors(self) -> list[int]:
        """The rows themselves, for a successor that may write them when we have ended."""
        return [self.past_fd, *self._inherited_fds,
                *(worker.row_fd for crew in self.crews() for worker in crew.workers)]


    def inodes(self) -> dict[str, list[int]]:
        """Of the listening sockets by address: they tell ours from another program's."""
        found: dict[str, list[int]] = {}
        for place, listener in self.listeners.items():
            found.setdefault(str(place.address), []).append(os.fstat(listener.fileno()).st_ino)
        return found

    def number(self, name: str) -> int | None:
        """The slot of a present service."""
        return next((number for number in self.table.services if self.table.service_name(number) == name), None)

    def _server(self, number: int, name: str) -> Server | None:
        service = next((one for one in self.config.services if one.name == self.table.service_name(number)), None)
        return next((server for server in service.servers if server.name == name), None) if service else None

    # Sockets

    def _open_listeners(self, config: Config, workers: int, found: Sequence[socket.socket] = ()) -> None:
        """Open what is missing, or take it from the sockets `found`; of those the others are closed."""
        # An address that a retiring crew still holds is ours, though no new query reaches it there.
        ours: set[tuple[str, tuple[str, int]]] = {(place.proto, place.address) for place in self.listeners}
        ours |= {(proto, listener.getsockname()[:2]) for crew in self.crews() for worker in crew.workers
                 for _, proto, listener in worker.listeners}
        waiting: dict[tuple[str, tuple[str, int]] | None, list[socket.socket]] = {}
        for listener in found:
            waiting.setdefault(sockets.listens_on(listener), []).append(listener)
        opened: list[Place] = []
        try:
            for place in _places(config, workers):
                what, floats = (place.proto, place.address), place.address.host in config.floating
                if place not in self.listeners and waiting.get(what):
                    self.listeners[place] = waiting[what].pop(0)
                elif place not in self.listeners:
                    if what not in ours:
                        sockets.probe_listen(place.proto, place.address, floats)
                    self.listeners[place] = sockets.open_listener(place.proto, place.address, floats)
                    opened.append(place)
                ours.add(what)
                if place.proto == "udp":
                    sockets.set_buffers(self.listeners[place], config.process.udp_buffer)
            for address in {place.address for place in _places(config, workers)}:
                sockets.steer(self.listeners[Place("tcp", address, 0)], workers)
        except StartError:
            for place in opened:
                self.listeners.pop(place).close()
            raise
        for listener in set(found) - set(self.listeners.values()):
            listener.close()

    def _new_crew(self, config: Config, workers: int) -> Crew:
        members = [WorkerState(config.process.inflight_max) for _ in range(workers)]
        numbers = []
        for service in config.services:
            number = self.number(service.name)
            assert number is not None
            numbers.append(number)
            for index, worker in enumerate(members):
                worker.listeners += [(number, proto, self.listeners[Place(proto, address, index)])
                                     for proto in PROTOCOLS for address in service.listen]
        return Crew(members, tuple(numbers))

    def reach(self, worker: WorkerState) -> list[Reach]:
        """Open what is missing toward present servers; the messages for what was opened, fds in `worker.servers`."""
        opened = []
        for service in self.config.services:
            number = self.number(service.name)
            if number is None or not any(number == known for known, *_ in worker.listeners):
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
        for number, proto, listener in worker.listeners:
            send(Listen(number, proto), [listener.fileno()])
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
            messages.append(TcpLimits(number, timeout, idle, message, lifetime, service.tcp_queries,
                                      service.tcp_message_reads, part(service.tcp_connections_max),
                                      service.tcp_per_client))        # all of a client come to one: sockets.steer
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
        fixed = (("process.log", old.process.log, config.process.log),
                 ("process.state_dir", old.process.state_dir, config.process.state_dir),
                 ("admin.socket", old.admin.socket, config.admin.socket),
                 ("admin.socket_group", old.admin.socket_group, config.admin.socket_group),
                 ("roles", "balancer" in old.roles, "balancer" in config.roles))
        if blocked := [what for what, before, after in fixed if before != after]:
            raise StartError(f"these changes need a restart: {', '.join(blocked)}")
        self._check_room(config)
        reshaped = self.reshapes(config, workers)
        if reshaped:
            self._open_listeners(config, workers)
        changes = self._apply_services(config, {service.name: service for service in old.services})
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

    def _entry(self, number: int, server: Server) -> ServerEntry | None:
        return next((entry for entry in self.table.servers(number)
                     if entry.state == "present" and entry.name == server.name
                     and entry.address == str(server.address)), None)

    def _describe(self, number: int, service: Service) -> None:
        self.table.set_service(number, service.name, service.scheduler, round(service.udp_timeout * 1e9),
                               round(service.slow_start * 1e9))
        self.table.set_retry(number, service.retry == "on", round(service.retry_after * 1e9), service.retry_budget,
                             _retry_rcodes(service), service.suspend == "on", service.min_alive,
                             _when_all_down(service))

    def _apply_services(self, config: Config, before: Mapping[str, Service]) -> list[str]:
        """Write the services into the table; `before`: what is known of those that stand there."""
        changes = []
        wanted = {service.name for service in config.services}
        for number in self.table.services:
            if (name := self.table.service_name(number)) not in wanted:
                self.table.remove_service(number)
                changes.append(f"removed service {name}")
        for service in config.services:
            found = self.number(service.name)
            if found is not None:
                changes += self._apply_service(found, before.get(service.name), service)
                continue
            number = next(one for one in range(SERVICES) if self.table.service_state(one) == "free")
            self._describe(number, service)
            for slot, server in enumerate(service.servers):
                self.table.add_server(number, slot, server.name, str(server.address), server.weight, 0, server.state)
            self.table.set_primary(number, self._primary(number, service))
            changes.append(f"added service {service.name}")
        return changes

    def _apply_service(self, number: int, old: Service | None, service: Service) -> list[str]:
        changes = []
        if described := [f"{key} {getattr(service, key)}" for key in DESCRIBED
                         if old is None or getattr(service, key) != getattr(old, key)]:
            self._describe(number, service)
            changes.append(f"{service.name}: {', '.join(described)}")
        if old is not None and any(getattr(service, key) != getattr(old, key) for key in TCP_KEYS):
            changes.append(f"{service.name}: TCP limits")
        if old is not None and service.admit != old.admit:
            changes.append(f"{service.name}: access lists")
        before = {server.name: server for server in old.servers} if old is not None else {}
        for entry in self.table.servers(number):
            wanted = next((server for server in service.servers if server.name == entry.name), None)
            keep = wanted is not None and str(wanted.address) == entry.address and (
                entry.name not in before or (wanted.source, wanted.sockets) == (
                    before[entry.name].source, before[entry.name].sockets))
            if entry.state == "present" and not keep:
                self.table.remove_server(number, entry.slot)
                changes.append(f"{service.name}: removed {entry.name} ({entry.address})")
        now = time.monotonic_ns()
        for server in service.servers:
            known = self._entry(number, server)
            if known is None:
                slot = self.table.free_slots(number)[0]
                self.table.add_server(number, slot, server.name, str(server.address), server.weight, now, server.state)
                changes.append(f"{service.name}: added {server.name} ({server.address}), weight {server.weight}")
                continue
            if server.weight != known.weight:
                self.table.set_weight(number, known.slot, server.weight, now)
                changes.append(f"{service.name}: {server.name} weight {known.weight} → {server.weight}")
            if server.state != known.ordered:
                self.table.set_ordered(number, known.slot, server.state, now)
                changes.append(f"{service.name}: {server.name} state {known.ordered} → {server.state}")
            if server.name in before and server.tcp_connections != before[server.name].tcp_connections:
                changes.append(f"{service.name}: {server.name} tcp_connections {server.tcp_connections}")
        primary = self._primary(number, service)
        if primary != self.table.primary(number):
            self.table.set_primary(number, primary)
            changes.append(f"{service.name}: primary {service.primary or 'none'}")
        return changes

    def reclaim(self) -> None:
        """Free the slots of removed servers and services that every worker has let go, and close our ends to them."""
        if self.inherited:                      # its workers still count in these slots
            return
        workers = [worker for crew in self.crews() for worker in crew.workers]
        known = {number for crew in self.crews() for number in crew.services}
        for number in range(SERVICES):
            if self.table.service_state(number) == "removed" and number not in known:
                self.table.free_service(number)
                self.past.clear_service(number)
                self.drops.forget(number)
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

    def count_drops(self) -> None:
        """Count what the kernel has dropped at the listening sockets."""
        found = self.drops.look((service, listener) for crew in self.crews() for worker in crew.workers
                                for service, proto, listener in worker.listeners if proto == "udp")
        for number, count in found.items():
            if count:
                self.past.add_socket_drops(number, count)

    def socket_drops(self) -> dict[str, dict[str, int]]:
        """Those of each service by listening address."""
        return {service.name: {str(address): self.drops.total(number, str(address)) for address in service.listen}
                for service in self.config.services if (number := self.number(service.name)) is not None}

    def carry_drops(self, told: Mapping[str, Mapping[str, int]]) -> None:
        """What a supervisor before this one has counted so far, as its `socket_drops` tells it."""
        self.drops.before = {(number, address): int(count) for name, counts in told.items()
                             if (number := self.number(name)) is not None for address, count in counts.items()}

    def _used_elsewhere(self, crew: Crew) -> set[socket.socket]:
        return self.lent | (_listeners(self.crew) if crew is not self.crew else set())

    def silence(self, crew: Crew) -> None:
        """Let no query arrive where only this crew listens; what waits in its sockets stays readable.

        Of TCP each worker does it itself, when it has accepted what waits (`alone`).
        """
        mine = _listeners(crew) - self._used_elsewhere(crew)
        for place, listener in list(self.listeners.items()):
            if listener in mine:
                self.listeners.pop(place)
                if place.proto == "udp":
                    sockets.silence(listener)

    def alone(self, crew: Crew, worker: WorkerState) -> list[int]:
        """The numbers of a worker's TCP listeners on which nobody but its crew listens."""
        used = self._used_elsewhere(crew)
        mine = [listener for _, proto, listener in worker.listeners if proto == "tcp"]
        return [number for number, listener in enumerate(mine) if listener not in used]

    def bury(self, crew: Crew) -> None:
        """All processes of a retiring crew are gone: its counters become past, its memory and sockets are given up."""
        self.retiring.remove(crew)
        for worker in crew.workers:
            self.past.absorb(worker.row, crew.services)
            worker.close()
        for listener in _listeners(crew).difference(*(_listeners(one) for one in self.crews())):
            listener.close()
        self.reclaim()

    def listening(self) -> dict[Place, socket.socket]:
        """The listening sockets of the present crew."""
        mine = _listeners(self.crew)
        return {place: listener for place, listener in self.listeners.items() if listener in mine}

    # A supervisor before us

    def carry(self, told: Mapping[str, Any]) -> None:
        """Count what a predecessor of another layout has counted in a service, and has not told of before."""
        number = self.number(str(told["name"]))
        if number is None:
            return
        more = difference(dict(told), self._carried.get(told["name"]))
        self._carried[told["name"]] = dict(told)
        self.past.add_service(number, more["counters"])
        slots = {(entry.name, entry.address): entry.slot for entry in self.table.servers(number)
                 if entry.state == "present"}
        before = {(name, address): one for name, address, one in more["servers"]}
        for pair, slot in slots.items():
            if pair in before:
                self.past.add_server(number, slot, before[pair])

    def inherited_beat(self) -> float:
        """Seconds since any worker of the supervisor before last swept."""
        now = time.monotonic_ns()
        return min(((now - row.heartbeat_ns) / 1e9 for row in self.inherited), default=float("inf"))

    def bury_inherited(self) -> None:
        """The supervisor before has ended, and all its workers: their counters become past."""
        numbers = [number for number in range(SERVICES) if self.table.service_state(number) != "free"]
        for row in self.inherited:
            self.past.absorb(row, numbers)
        for descriptor in (*self._inherited_fds, *self._inherited_view_fds):
            os.close(descriptor)
        self.inherited, self._inherited_fds, self._inherited_view_fds = [], [], []
        self.reclaim()


def _places(config: Config, workers: int) -> Iterator[Place]:
    return (Place(proto, address, worker) for service in config.services for address in service.listen
            for proto in PROTOCOLS for worker in range(workers))


def _listeners(crew: Crew) -> set[socket.socket]:
    return {listener for worker in crew.workers for *_, listener in worker.listeners}


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
