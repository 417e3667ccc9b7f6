"""DNS over TCP in one worker: one epoll set over listeners, clients and links, handled in batches.

The set lies in the poller's, which calls `handle` once a round after all of UDP. It reads 16 KiB of each of TCP_EVENTS
connections at most, so that twenty transfers leave UDP its turns. Every event that was taken is handled: epoll
reports first the connections it has not reported yet, so each one has its turn; left-overs would starve. All of DNS
stands in relay.pyx, all of bytes in stream.pyx.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from balancer.datapath.admission cimport Admission
from balancer.datapath.back cimport Back
from balancer.datapath.exchange cimport Client
from balancer.datapath.relay cimport Relay
from balancer.datapath.pool cimport Link, Pool
from balancer.datapath.stream cimport CLIENT, LISTENER, Stream, Streams
from balancer.datapath.syscalls cimport EPOLLIN, epoll_wait, monotonic_ns
from balancer.datapath.tcp_syscalls cimport SHUT_RD, c_shutdown
from balancer.schedule.base cimport NO_SERVER
from balancer.table.layout cimport MAX_SERVERS, MAX_SERVICES, load
from balancer.table.table cimport Row


cdef class _Listener:
    cdef Stream *stream
    cdef int descriptor


cdef class Tcp:
    """open, receive, handle, send, sweep, close for the TCP side of all services.

    row: the worker's own. backs: UDP's side of each service.
    """

    def __cinit__(self, Row row, backs):
        cdef Relay relay
        self.streams = Streams()
        self.relays = [None] * MAX_SERVICES
        self.active = []
        self.listeners = []
        for back in backs:
            relay = Relay((<Back>back).service, self.streams, back)
            relay.row = &row.tcp_service_rows[relay.service]
            relay.rows = &row.tcp_server_rows[relay.service * MAX_SERVERS]
            relay.pool.rows = relay.rows
            self.relays[relay.service] = relay
            self.active.append(relay)

    def fileno(self):
        """The descriptor that is readable when `handle` has something to do."""
        return self.streams.epoll

    def open_listener(self, int service, int descriptor):
        """Take connections of `service` from a listening socket, which stays the caller's."""
        cdef _Listener listener = _Listener()
        listener.descriptor = descriptor
        listener.stream = <Stream *>calloc(1, sizeof(Stream))
        if listener.stream == NULL:
            raise MemoryError("listener")
        listener.stream.service = service
        if not self.streams.add(listener.stream, descriptor, LISTENER, EPOLLIN):
            free(listener.stream)
            raise OSError(f"cannot poll descriptor {descriptor}")
        self.listeners.append(listener)

    def admit(self, int service, Admission admission):
        """The access lists of a service; UDP uses the same object."""
        if self.relays[service] is not None:
            (<Relay>self.relays[service]).admission = admission

    def set_limits(self, int service, limits):
        """See Relay.set_limits."""
        self.relays[service].set_limits(*limits)

    def set_server(self, int service, int slot, host, int port, source, int limit):
        """See Pool.set_server."""
        (<Relay>self.relays[service]).pool.set_server(slot, host, port, source, limit)

    def retire_absent(self, int service, present):
        """Forget the servers whose slots are not in `present`: see Pool.retire."""
        cdef Pool pool = (<Relay>self.relays[service]).pool
        for slot in range(pool.used):
            if pool.targets[<int>slot].present and slot not in present:
                pool.retire(slot)

    def set_primary(self, int service, slot):
        """The server slot that SOA, AXFR, IXFR, NOTIFY and UPDATE go to; None: no such."""
        (<Relay>self.relays[service]).primary = NO_SERVER if slot is None else slot

    def adopt(self):
        """Begin: what the counters tell of a predecessor's connections is closed in them."""
        for relay in self.active:
            (<Relay>relay).adopt()

    cdef int handle(self) except -1:
        """Handle what has arrived, a bounded piece of it; the number of events, TCP_EVENTS when there may be more."""
        cdef int count = epoll_wait(self.streams.epoll, self.events, TCP_EVENTS, 0)
        if count > 0:
            self._observe()
            self.streams.now = monotonic_ns()
            self._serve(count)
            self._settle()
        return count if count > 0 else 0

    cdef int _observe(self) except -1:
        """Who chooses apart from UDP must be told what UDP has in flight."""
        cdef Relay relay
        for relay in self.active:
            if relay.apart:
                relay.observe()
        return 0

    cdef int _serve(self, int count) except -1:
        cdef int index
        cdef uint64_t data
        cdef uint32_t events
        cdef Stream *stream
        cdef Relay relay
        for index in range(count):
            data = self.events[index].data.u64
            events = self.events[index].events
            stream = self.streams.find(data)
            if stream == NULL:
                continue
            relay = <Relay>self.relays[stream.service]
            if stream.kind == CLIENT:
                relay.on_client(<Client *>stream, events)
            elif stream.kind == LISTENER:
                if not relay.accept(stream.descriptor):
                    self.out_of_descriptors = True
                    self.streams.watch(stream, 0)
            else:
                relay.on_link(<Link *>stream, events)
        return 0

    cdef int _settle(self) except -1:
        """Empty every list of what is due, then send what was staged; repeat while that makes more."""
        cdef Relay relay
        cdef Stream *stream
        while True:
            for relay in self.active:
                relay.settle()
            stream = self.streams.dirty
            if stream == NULL:
                break
            self.streams.dirty = stream.next_dirty
            stream.dirty = False
            if stream.descriptor < 0:
                continue
            relay = <Relay>self.relays[stream.service]
            if stream.kind == CLIENT:
                relay.flush_client(<Client *>stream)
            else:
                relay.flush_link(<Link *>stream)
        self.streams.bury()
        return 0

    def sweep(self):
        """What time brings: idle clients, silent servers, messages that never end."""
        cdef Relay relay
        cdef _Listener listener
        self.streams.now = monotonic_ns()
        if self.out_of_descriptors:
            self.out_of_descriptors = False
            for listener in self.listeners:
                self.streams.watch(listener.stream, EPOLLIN)
        for relay in self.active:
            relay.sweep()
        self._settle()

    cdef int look(self) except -1:
        """What cannot wait for the next sweep: queries that are not answered soon."""
        cdef Relay relay
        self.streams.now = monotonic_ns()
        for relay in self.active:
            relay.look()
        self._settle()
        return 0

    cdef bint pending(self) except -1:
        """Whether any query waits for its answer."""
        cdef Relay relay
        for relay in self.active:
            if relay.sent.oldest != NULL or relay.stranded.oldest != NULL:
                return True
        return False

    def stop(self, double grace, alone=()):
        """Accept what the kernel has queued, then no more; finish what is pending.

        Connections in use go on for `grace` seconds at most. Called again, the shorter grace holds. alone: which
        listeners, by their order, are used by us only: they leave their SO_REUSEPORT group now, or connections that
        nobody accepts would go on to come there. With net.ipv4.tcp_migrate_req=1 one that came just now goes to
        another listener of the group.
        """
        cdef Relay relay
        cdef _Listener listener
        self.streams.now = monotonic_ns()
        for number, listener in enumerate(self.listeners):
            relay = <Relay>self.relays[listener.stream.service]
            before = -1
            while before != load(&relay.row.connections) and relay.accept(listener.descriptor):
                before = load(&relay.row.connections)
            if number in alone:
                c_shutdown(listener.descriptor, SHUT_RD)
            self.streams.shut(listener.stream)
        self.listeners = []
        for relay in self.active:
            relay.stop(<uint64_t>(grace * 1e9))
        self._settle()
        self.sweep()

    def close(self):
        """Close every connection now."""
        for relay in self.active:
            (<Relay>relay).close()
        self.streams.bury()

    @property
    def busy(self):
        """Connections of clients that are open."""
        return sum(relay.connections for relay in self.active)
