"""The server table: create, attach and read the shared memory that every process agrees on.

The supervisor allocates every region (`allocate`) and owns the `ConfigTable`; a worker owns one `Row`; everybody else
attaches to read-only descriptors (`read_only`). Layout, writers and units: layout.pxd. Attaching checks magic,
layout version and sizes, and raises `LayoutError` when they are not this program's.
"""

import fcntl
import os
from typing import NamedTuple

from libc.string cimport memset
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap

from balancer.errors import LayoutError

from balancer.table.layout cimport (
    DROPS, IGNORES, LATENCY_BUCKETS, LAYOUT_VERSION, MAX_SERVERS, MAX_SERVICES, NAME_BYTES, ORDERS, RCODES, SERVER_FREE,
    SERVER_PRESENT, SERVER_REMOVED, SERVICE_PRESENT, SERVICE_REMOVED, TCP_CLOSE_WORKER_LOST, TCP_CLOSES,
    TCP_DROP_WORKER_LOST, TCP_DROPS, TcpRowServer, TcpRowService, add, load, load_acquire, store, store_release,
)

SERVERS_PER_SERVICE = MAX_SERVERS
SERVICES = MAX_SERVICES
DROP_REASONS = (
    "short", "response", "source", "truncated", "not_admitted", "no_server", "table_full", "unsent", "backlog_full",
    "client_refused_address", "client_denied", "client_unreachable", "client_too_long", "client_error",
    "primary_down",
)
ORDERED_STATES = ("auto", "up", "down", "drained")
RCODE_NAMES = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "OTHER")
IGNORE_REASONS = ("short", "not_response", "unknown_id", "wrong_question", "late")
TCP_DROP_REASONS = (
    "response", "not_admitted", "no_server", "primary_down", "no_connection", "unsent", "client_gone", "no_memory",
    "worker_lost",
)
TCP_CLOSE_REASONS = (
    "client", "reset", "idle", "evicted", "full", "per_client", "message_time", "message_reads", "not_a_message",
    "response", "not_admitted", "queries", "lifetime", "unread", "server_lost", "no_memory", "stop", "worker_lost",
)
# Upper bounds in seconds; the last bucket has none. They resolve a LAN (0.1 ms) and still show a two second timeout.
LATENCY_BOUNDS = (.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1.0, 2.5)

cdef uint64_t[LATENCY_BUCKETS] _bounds_ns
for _index, _bound in enumerate(LATENCY_BOUNDS):
    _bounds_ns[_index] = round(_bound * 1e9)
_bounds_ns[LATENCY_BUCKETS - 1] = <uint64_t>-1

assert len(DROP_REASONS) == DROPS and len(RCODE_NAMES) == RCODES and len(IGNORE_REASONS) == IGNORES
assert len(TCP_DROP_REASONS) == TCP_DROPS and len(TCP_CLOSE_REASONS) == TCP_CLOSES
assert len(ORDERED_STATES) == ORDERS
assert len(LATENCY_BOUNDS) == LATENCY_BUCKETS - 1

cdef uint64_t *latency_bounds_ns() noexcept nogil:
    return _bounds_ns

cdef enum:
    CONFIG_MAGIC = 0x6e733763    # "ns7c"
    ROW_MAGIC = 0x6e733772       # "ns7r"


class ServerEntry(NamedTuple):
    """One used server slot of the configuration, as a reader sees it."""

    slot: int
    name: str
    address: str
    weight: int
    state: str              # "present", "removed"
    since_ns: int           # CLOCK_MONOTONIC when it was added or undrained; 0: at the start
    identity: int           # no two servers have the same, also in one slot
    ordered: str = "auto"   # the operator's word: one of ORDERED_STATES

    @property
    def takes_queries(self):
        """Whether it may be chosen as far as the configuration is concerned."""
        return self.state == "present" and self.weight > 0 and self.ordered not in ("down", "drained")


def allocate(str name, size_t size):
    """A new memfd of `size` bytes, zeroed and sealed in size: whoever maps it can never be cut short by another."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


def read_only(int descriptor):
    """A second descriptor of the same memory that cannot be mapped for writing."""
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)


def config_size():
    """Bytes of the configuration region."""
    return sizeof(ConfigHeader) + MAX_SERVICES * sizeof(ConfigService)


def row_size():
    """Bytes of one worker's row."""
    return sizeof(RowHeader) + MAX_SERVICES * (
        sizeof(RowService) + sizeof(TcpRowService) + MAX_SERVERS * (sizeof(RowServer) + sizeof(TcpRowServer)))


cdef class Region:
    """A mapping of one memfd. The descriptor may be closed afterwards; the memory lives as long as this object."""

    def __cinit__(self, int descriptor, bint writable=False, *_):
        cdef size_t size = os.fstat(descriptor).st_size
        cdef void *base = mmap(NULL, size, PROT_READ | (PROT_WRITE if writable else 0), MAP_SHARED, descriptor, 0)
        if base == MAP_FAILED:
            raise LayoutError(f"cannot map {size} bytes of shared memory")
        self.base = <uint8_t *>base
        self.size = size
        self.writable = writable

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size)

    cdef int _verify(self, str what, uint64_t *header, uint64_t magic, size_t expected) except -1:
        # Both headers begin with magic, version, size: read them before trusting any other word.
        if self.size < 4 * sizeof(uint64_t) or header[0] != magic:
            raise LayoutError(f"{what}: not this kind of region")
        if header[1] != LAYOUT_VERSION:
            raise LayoutError(f"{what}: layout version {header[1]}, this program has {LAYOUT_VERSION}")
        if header[2] != self.size or expected != self.size:
            raise LayoutError(f"{what}: {self.size} bytes, expected {expected}")
        return 0

    cdef int _own(self) except -1:
        if not self.writable:
            raise LayoutError("this mapping is read-only")
        return 0


cdef class ConfigTable(Region):
    """Services, servers, weights and the generation. Writer: the supervisor.

    Changes take effect for the workers with `publish`; names and addresses in a slot never change while it is used.
    """

    def __init__(self, int descriptor, bint writable=False, bint create=False):
        self.header = <ConfigHeader *>self.base
        self.entry = <ConfigService *>(self.base + sizeof(ConfigHeader))
        if create:
            self._own()
            self.header.magic = CONFIG_MAGIC
            self.header.version = LAYOUT_VERSION
            self.header.size = self.size
            self.header.services = MAX_SERVICES
        self._verify("config table", <uint64_t *>self.base, CONFIG_MAGIC, config_size())

    @property
    def services(self):
        """Numbers of the services that are present."""
        return [number for number in range(MAX_SERVICES) if load(&self.entry[number].state) == SERVICE_PRESENT]

    def service_state(self, int service):
        """"free", "present" or "removed"."""
        self._server(service, 0)
        return ("free", "present", "removed")[load(&self.entry[service].state)]

    @property
    def generation(self):
        return load_acquire(&self.header.generation)

    def publish(self):
        """Let the workers see everything that was written before; returns the new generation."""
        self._own()
        store_release(&self.header.generation, self.header.generation + 1)
        return self.header.generation

    cdef ConfigServer *_server(self, int service, int slot) except NULL:
        if not (0 <= service < MAX_SERVICES and 0 <= slot < MAX_SERVERS):
            raise IndexError(f"service {service}, server slot {slot}")
        return &self.entry[service].servers[slot]

    def set_service(self, int service, str name, str scheduler, uint64_t udp_timeout_ns, uint64_t slow_start_ns):
        """Describe a service; a free slot becomes present."""
        self._own()
        self._server(service, 0)
        _write_name(self.entry[service].name, name)
        _write_name(self.entry[service].scheduler, scheduler)
        store(&self.entry[service].udp_timeout_ns, udp_timeout_ns)
        store(&self.entry[service].slow_start_ns, slow_start_ns)
        store(&self.entry[service].state, SERVICE_PRESENT)

    def set_retry(self, int service, bint retry, uint64_t after_ns, uint64_t percent, uint64_t rcodes, bint suspend,
                  uint64_t min_alive, uint64_t when_all_down):
        """When queries are sent again, and who is passed over; fields of the same names in layout.pxd."""
        self._own()
        self._server(service, 0)
        cdef ConfigService *entry = &self.entry[service]
        store(&entry.retry, retry)
        store(&entry.retry_after_ns, after_ns)
        store(&entry.retry_percent, percent)
        store(&entry.retry_rcodes, rcodes)
        store(&entry.suspend, suspend)
        store(&entry.min_alive, min_alive)
        store(&entry.when_all_down, when_all_down)

    def remove_service(self, int service):
        """Nothing new comes to it; the slot is not free yet (see `free_service`)."""
        self._own()
        self._server(service, 0)
        store(&self.entry[service].state, SERVICE_REMOVED)

    def free_service(self, int service):
        """Give a removed service's slot back, with its servers. Only when no worker knows it any more."""
        self._own()
        self._server(service, 0)
        memset(&self.entry[service], 0, sizeof(ConfigService))

    def set_primary(self, int service, slot):
        """The server that alone takes SOA, AXFR, IXFR, NOTIFY and UPDATE while it may be chosen; None: no such."""
        self._own()
        self._server(service, slot or 0)
        store(&self.entry[service].primary, 0 if slot is None else slot + 1)

    def primary(self, int service):
        self._server(service, 0)
        return load(&self.entry[service].primary) - 1 if self.entry[service].primary else None

    def add_server(self, int service, int slot, str name, str address, uint64_t weight, uint64_t since_ns=0,
                   str ordered="auto"):
        """Fill a free slot; the caller knows that nobody has it in flight."""
        self._own()
        cdef ConfigServer *server = self._server(service, slot)
        if server.state == SERVER_PRESENT:
            raise LayoutError(f"server slot {slot} is in use")
        _write_name(server.name, name)
        _write_name(server.address, address)
        store(&server.weight, weight)
        store(&server.ordered, ORDERED_STATES.index(ordered))
        store(&server.since_ns, since_ns)
        store(&self.header.identities, self.header.identities + 1)
        store(&server.identity, self.header.identities)
        store(&self.entry[service].used, max(self.entry[service].used, <uint64_t>(slot + 1)))
        store(&server.state, SERVER_PRESENT)

    def set_weight(self, int service, int slot, uint64_t weight, uint64_t now_ns):
        """now_ns: CLOCK_MONOTONIC, from when a server that took nothing counts as coming back."""
        self._own()
        took = self._entry(service, slot).takes_queries
        store(&self._server(service, slot).weight, weight)
        self._note_return(service, slot, took, now_ns)

    def set_ordered(self, int service, int slot, str ordered, uint64_t now_ns):
        """The operator's word, one of ORDERED_STATES; now_ns as for `set_weight`."""
        self._own()
        took = self._entry(service, slot).takes_queries
        store(&self._server(service, slot).ordered, ORDERED_STATES.index(ordered))
        self._note_return(service, slot, took, now_ns)

    cdef int _note_return(self, int service, int slot, bint took, uint64_t now_ns) except -1:
        if not took and self._entry(service, slot).takes_queries:
            store(&self._server(service, slot).since_ns, now_ns)
        return 0

    def remove_server(self, int service, int slot):
        """Nothing new goes there from the next `publish` on; the slot is not free yet (see `free_server`)."""
        self._own()
        cdef ConfigServer *server = self._server(service, slot)
        store(&server.removed_at, self.header.generation + 1)
        store(&server.state, SERVER_REMOVED)

    def free_server(self, int service, int slot):
        """Give a removed slot back. Only when every worker has seen the removal and has nothing in flight there."""
        self._own()
        store(&self._server(service, slot).state, SERVER_FREE)

    def removed_at(self, int service, int slot):
        return load(&self._server(service, slot).removed_at)

    def service_name(self, int service):
        self._server(service, 0)
        return _read_name(self.entry[service].name)

    def scheduler(self, int service):
        self._server(service, 0)
        return _read_name(self.entry[service].scheduler)

    def udp_timeout_ns(self, int service):
        self._server(service, 0)
        return load(&self.entry[service].udp_timeout_ns)

    def slow_start_ns(self, int service):
        self._server(service, 0)
        return load(&self.entry[service].slow_start_ns)

    def min_alive(self, int service):
        """With fewer servers that may be chosen, others are kept."""
        self._server(service, 0)
        return load(&self.entry[service].min_alive)

    def free_slots(self, int service):
        """Numbers of the slots that may be filled, lowest first."""
        return [slot for slot in range(MAX_SERVERS) if self._server(service, slot).state == SERVER_FREE]

    def servers(self, int service):
        """The used slots of a service as `ServerEntry`, in slot order."""
        cdef list entries = []
        cdef int slot
        self._server(service, 0)
        for slot in range(min(<int>load(&self.entry[service].used), <int>MAX_SERVERS)):
            if load(&self._server(service, slot).state) != SERVER_FREE:
                entries.append(self._entry(service, slot))
        return entries

    cdef object _entry(self, int service, int slot):
        cdef ConfigServer *server = self._server(service, slot)
        return ServerEntry(
            slot, _read_name(server.name), _read_name(server.address), load(&server.weight),
            "present" if load(&server.state) == SERVER_PRESENT else "removed", load(&server.since_ns),
            load(&server.identity), ORDERED_STATES[load(&server.ordered)])


cdef class Row(Region):
    """One worker's counters and gauges. Writer: that worker; a successor goes on counting where it stopped."""

    def __init__(self, int descriptor, bint writable=False, bint create=False):
        self.header = <RowHeader *>self.base
        if create:
            self._own()
            self.header.magic = ROW_MAGIC
            self.header.version = LAYOUT_VERSION
            self.header.size = self.size
            self.header.services = MAX_SERVICES
        self._verify("worker row", <uint64_t *>self.base, ROW_MAGIC, row_size())
        self.service_rows = <RowService *>(self.base + sizeof(RowHeader))
        self.server_rows = <RowServer *>(self.service_rows + MAX_SERVICES)
        self.tcp_service_rows = <TcpRowService *>(self.server_rows + MAX_SERVICES * MAX_SERVERS)
        self.tcp_server_rows = <TcpRowServer *>(self.tcp_service_rows + MAX_SERVICES)

    @property
    def heartbeat_ns(self):
        return load(&self.header.heartbeat_ns)

    @property
    def generation_seen(self):
        return load(&self.header.generation_seen)

    def clear_server(self, int service, int slot):
        """Forget a slot's counters before another server takes it. Supervisor, while no worker uses the slot."""
        self._own()
        memset(&self.server_rows[self._checked(service) * MAX_SERVERS + slot], 0, sizeof(RowServer))
        memset(&self.tcp_server_rows[service * MAX_SERVERS + slot], 0, sizeof(TcpRowServer))

    def clear_service(self, int service):
        """Forget a service's counters before another takes its slot. Supervisor, while no worker uses it."""
        self._own()
        memset(&self.service_rows[self._checked(service)], 0, sizeof(RowService))
        memset(&self.server_rows[service * MAX_SERVERS], 0, MAX_SERVERS * sizeof(RowServer))
        memset(&self.tcp_service_rows[service], 0, sizeof(TcpRowService))
        memset(&self.tcp_server_rows[service * MAX_SERVERS], 0, MAX_SERVERS * sizeof(TcpRowServer))

    def absorb(self, Row other, services):
        """Move another row's counters of these services into this one; `other` has no writer any more.

        `moves` is odd meanwhile, so that a reader of both rows can tell that it must look again.
        """
        self._own()
        other._own()
        cdef int service, slot
        store_release(&self.header.moves, self.header.moves + 1)
        for service in services:
            self._checked(service)
            other.service_rows[service].in_flight = 0
            add(&other.tcp_service_rows[service].dropped[<int>TCP_DROP_WORKER_LOST],
                other.tcp_service_rows[service].in_flight)
            add(&other.tcp_service_rows[service].closed[<int>TCP_CLOSE_WORKER_LOST],
                other.tcp_service_rows[service].open)
            other.tcp_service_rows[service].in_flight = other.tcp_service_rows[service].open = 0
            _move(<uint64_t *>&other.tcp_service_rows[service], <uint64_t *>&self.tcp_service_rows[service],
                  sizeof(TcpRowService))
            _move(<uint64_t *>&other.service_rows[service], <uint64_t *>&self.service_rows[service],
                  sizeof(RowService))
            for slot in range(service * MAX_SERVERS, (service + 1) * MAX_SERVERS):
                other.server_rows[slot].in_flight = other.server_rows[slot].open = 0
                other.server_rows[slot].suspect_since_ns = other.server_rows[slot].suspect_until_ns = 0
                other.server_rows[slot].refused_ns = other.server_rows[slot].seen_well_ns = 0
                _move(<uint64_t *>&other.server_rows[slot], <uint64_t *>&self.server_rows[slot], sizeof(RowServer))
                other.tcp_server_rows[slot].in_flight = other.tcp_server_rows[slot].open = 0
                other.tcp_server_rows[slot].idle = 0
                other.tcp_server_rows[slot].failed_ns = other.tcp_server_rows[slot].answered_ns = 0
                _move(<uint64_t *>&other.tcp_server_rows[slot], <uint64_t *>&self.tcp_server_rows[slot],
                      sizeof(TcpRowServer))
        store_release(&self.header.moves, self.header.moves + 1)

    def add_service(self, int service, dict counters):
        """Count what `service` told of a table of another layout; names that this one does not have are left out.

        Gauges are not counters: they stay as they are. `counters` may be the difference of two tellings.
        """
        self._own()
        cdef RowService *row = &self.service_rows[self._checked(service)]
        cdef TcpRowService *tcp = &self.tcp_service_rows[service]
        cdef dict more = counters.get("tcp", {})
        _count(&row.queries, counters, "queries")
        _count(&row.answers, counters, "answers")
        _count(&row.timeouts, counters, "timeouts")
        _count(&row.socket_drops, counters, "socket_drops")
        _count(&row.unkept, counters, "unkept")
        _count_all(row.dropped, counters, "dropped", DROP_REASONS)
        _count(&tcp.queries, more, "queries")
        _count(&tcp.answers, more, "answers")
        _count(&tcp.timeouts, more, "timeouts")
        _count(&tcp.transfers, more, "transfers")
        _count(&tcp.connections, more, "connections")
        _count_all(tcp.dropped, more, "dropped", TCP_DROP_REASONS)
        _count_all(tcp.closed, more, "closed", TCP_CLOSE_REASONS)

    def add_server(self, int service, int slot, dict counters):
        """The same for what `server` told."""
        self._own()
        if not 0 <= slot < MAX_SERVERS:
            raise IndexError(f"server slot {slot}")
        cdef RowServer *row = &self.server_rows[self._checked(service) * MAX_SERVERS + slot]
        cdef TcpRowServer *tcp = &self.tcp_server_rows[service * MAX_SERVERS + slot]
        cdef dict more = counters.get("tcp", {})
        _count(&row.queries, counters, "queries")
        _count(&row.timeouts, counters, "timeouts")
        _count(&row.refusals, counters, "refusals")
        _count(&row.resends, counters, "resends")
        _count(&row.bytes_out, counters, "bytes_out")
        _count(&row.bytes_in, counters, "bytes_in")
        _count(&row.forged_errors, counters, "forged_errors")
        _count_all(row.answers, counters, "answers", RCODE_NAMES)
        _count_all(row.ignored, counters, "ignored", IGNORE_REASONS)
        _count(&row.latency_sum_ns, counters, "latency_sum_ns")
        _count_latency(row.latency, counters)
        _count(&tcp.queries, more, "queries")
        _count(&tcp.timeouts, more, "timeouts")
        _count(&tcp.failures, more, "failures")
        _count(&tcp.resends, more, "resends")
        _count(&tcp.bytes_out, more, "bytes_out")
        _count(&tcp.bytes_in, more, "bytes_in")
        _count(&tcp.connections, more, "connections")
        _count_all(tcp.answers, more, "answers", RCODE_NAMES)
        _count_all(tcp.ignored, more, "ignored", IGNORE_REASONS)
        _count(&tcp.latency_sum_ns, more, "latency_sum_ns")
        _count_latency(tcp.latency, more)

    def add_socket_drops(self, int service, uint64_t count):
        """More datagrams that the kernel dropped. Supervisor, in the row of the past."""
        self._own()
        add(&self.service_rows[self._checked(service)].socket_drops, count)

    @property
    def moves(self):
        return load_acquire(&self.header.moves)

    def suspects(self, int service, int used, uint64_t now_ns):
        """Whom of the slots 0..used-1 this worker suspects: (slot, since when, newest refusal), CLOCK_MONOTONIC ns."""
        cdef RowServer *rows = &self.server_rows[self._checked(service) * MAX_SERVERS]
        cdef int slot
        return [(slot, load(&rows[slot].suspect_since_ns), load(&rows[slot].refused_ns))
                for slot in range(min(used, <int>MAX_SERVERS)) if load(&rows[slot].suspect_until_ns) > now_ns]

    def owed(self, int service, int used):
        """Which of the slots 0..used-1 owe this worker an answer over UDP: (slot, whether a query is in flight, newest
        refusal that no answer followed or 0, CLOCK_MONOTONIC ns)."""
        cdef RowServer *rows = &self.server_rows[self._checked(service) * MAX_SERVERS]
        cdef TcpRowServer *tcp = &self.tcp_server_rows[service * MAX_SERVERS]
        cdef uint64_t refused
        cdef bint waits
        cdef int slot
        found = []
        for slot in range(min(used, <int>MAX_SERVERS)):
            waits = load(&rows[slot].in_flight) > load(&tcp[slot].in_flight)
            refused = load(&rows[slot].refused_ns)
            if refused <= load(&rows[slot].seen_well_ns):
                refused = 0
            if waits or refused:
                found.append((slot, waits, refused))
        return found

    def seen_well_ns(self, int service, int slot):
        """When this worker last had a valid answer over UDP (CLOCK_MONOTONIC); 0: never."""
        return load(&self.server_rows[self._checked(service) * MAX_SERVERS + slot].seen_well_ns)

    def open_sockets(self, int service, int slot):
        """How many sockets the worker has toward a server, TCP connections too; 0: it does not touch the slot."""
        slot += self._checked(service) * MAX_SERVERS
        return load(&self.server_rows[slot].open) + load(&self.tcp_server_rows[slot].open)

    cdef int _checked(self, int service) except -1:
        if not 0 <= service < MAX_SERVICES:
            raise IndexError(f"service {service}")
        return service

    def service(self, int service):
        """Counters of one service as a dict of plain numbers."""
        cdef RowService *row = &self.service_rows[self._checked(service)]
        cdef int index
        return {
            "queries": load(&row.queries), "answers": load(&row.answers), "timeouts": load(&row.timeouts),
            "inflight": load(&row.in_flight), "socket_drops": load(&row.socket_drops), "unkept": load(&row.unkept),
            "dropped": {DROP_REASONS[index]: load(&row.dropped[index]) for index in range(<int>DROPS)},
            "tcp": _tcp_service(&self.tcp_service_rows[service]),
        }

    def server(self, int service, int slot):
        """Counters of one server as a dict of plain numbers; latency in nanoseconds, buckets not cumulated."""
        if not 0 <= slot < MAX_SERVERS:
            raise IndexError(f"server slot {slot}")
        cdef RowServer *row = &self.server_rows[self._checked(service) * MAX_SERVERS + slot]
        cdef int index
        return {
            "inflight": load(&row.in_flight), "queries": load(&row.queries), "timeouts": load(&row.timeouts),
            "refusals": load(&row.refusals), "resends": load(&row.resends), "bytes_out": load(&row.bytes_out),
            "bytes_in": load(&row.bytes_in), "forged_errors": load(&row.forged_errors),
            "answers": {RCODE_NAMES[index]: load(&row.answers[index]) for index in range(<int>RCODES)},
            "ignored": {IGNORE_REASONS[index]: load(&row.ignored[index]) for index in range(<int>IGNORES)},
            "latency_sum_ns": load(&row.latency_sum_ns),
            "latency": [load(&row.latency[index]) for index in range(<int>LATENCY_BUCKETS)],
            "tcp": _tcp_server(&self.tcp_server_rows[service * MAX_SERVERS + slot]),
        }


cdef dict _tcp_service(TcpRowService *row):
    cdef int index
    return {
        "queries": load(&row.queries), "answers": load(&row.answers), "timeouts": load(&row.timeouts),
        "inflight": load(&row.in_flight), "transfers": load(&row.transfers),
        "connections": load(&row.connections), "open": load(&row.open),
        "dropped": {TCP_DROP_REASONS[index]: load(&row.dropped[index]) for index in range(<int>TCP_DROPS)},
        "closed": {TCP_CLOSE_REASONS[index]: load(&row.closed[index]) for index in range(<int>TCP_CLOSES)},
    }


cdef dict _tcp_server(TcpRowServer *row):
    cdef int index
    return {
        "inflight": load(&row.in_flight), "queries": load(&row.queries), "timeouts": load(&row.timeouts),
        "failures": load(&row.failures), "resends": load(&row.resends), "bytes_out": load(&row.bytes_out),
        "bytes_in": load(&row.bytes_in), "connections": load(&row.connections), "open": load(&row.open),
        "idle": load(&row.idle),
        "answers": {RCODE_NAMES[index]: load(&row.answers[index]) for index in range(<int>RCODES)},
        "ignored": {IGNORE_REASONS[index]: load(&row.ignored[index]) for index in range(<int>IGNORES)},
        "latency_sum_ns": load(&row.latency_sum_ns),
        "latency": [load(&row.latency[index]) for index in range(<int>LATENCY_BUCKETS)],
    }


cdef int _count(uint64_t *word, dict counters, str name) except -1:
    amount = counters.get(name, 0)
    if isinstance(amount, int) and 0 <= amount < 1 << 64:
        add(word, amount)
    return 0


cdef int _count_all(uint64_t *words, dict counters, str name, tuple names) except -1:
    cdef dict found = counters.get(name, {})
    for index, one in enumerate(names):
        _count(&words[<int>index], found, one)
    return 0


cdef int _count_latency(uint64_t *words, dict counters) except -1:
    # Other bounds would be other counters: then the sum alone is kept.
    buckets = counters.get("latency", ())
    if len(buckets) == LATENCY_BUCKETS:
        for index, amount in enumerate(buckets):
            _count(&words[<int>index], {"": amount}, "")
    return 0


cdef void _move(uint64_t *out, uint64_t *into, size_t size) noexcept nogil:
    cdef size_t index
    for index in range(size // sizeof(uint64_t)):
        if out[index]:
            add(&into[index], out[index])
            store(&out[index], 0)


cdef int _write_name(uint8_t *target, str text) except -1:
    raw = text.encode("ascii")
    if len(raw) >= NAME_BYTES:
        raise LayoutError(f"name of {len(raw)} bytes, at most {NAME_BYTES - 1}: {text}")
    memset(target, 0, NAME_BYTES)
    for index, byte in enumerate(raw):
        target[index] = byte
    return 0


cdef str _read_name(const uint8_t *source):
    return (<bytes>source[:NAME_BYTES]).split(b"\0", 1)[0].decode("ascii", "replace")
