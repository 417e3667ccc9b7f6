"""The clients' side of DNS over TCP for one service: see clients.pyx."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from balancer.datapath.counts cimport Counts
from balancer.datapath.exchange cimport Client, ClientList
from balancer.datapath.pool cimport Link
from balancer.datapath.stream cimport Streams
from balancer.table.layout cimport TcpRowService

cdef struct Limits:                     # of this worker
    uint64_t timeout_ns
    uint64_t idle_ns
    uint64_t message_ns
    uint64_t lifetime_ns                # 0: none
    uint64_t queries                    # 0: none
    int reads
    int connections
    int per_client

cdef class Clients:
    cdef readonly int service
    cdef Streams streams
    cdef Counts counts
    cdef Limits limits
    cdef TcpRowService *row
    cdef ClientList idle                # oldest first: the longest idle
    cdef ClientList busy
    cdef int open
    cdef Client *resuming
    cdef uint64_t leaving_ns            # idle clients are let go until then, the others after; 0: not yet
    cdef bint stopping
    cdef bint room                      # a descriptor, or a connection toward a server, came free

    cdef bint accept(self, int listener) noexcept nogil
    cdef void _welcome(self, int descriptor, const uint8_t *name, int size) noexcept nogil
    cdef void on_client(self, Client *client, uint32_t events) noexcept nogil
    cdef void _read_client(self, Client *client) noexcept nogil
    cdef void _linger(self, Client *client) noexcept nogil
    cdef void _serve(self, Client *client, int size) noexcept nogil
    cdef void flush_client(self, Client *client) noexcept nogil
    cdef void _place(self, Client *client, ClientList *list) noexcept nogil
    cdef bint _married(self, Client *client) noexcept nogil
    cdef void _end(self, Client *client, int reason) noexcept nogil
    cdef void _close(self, Client *client, int reason) noexcept nogil
    cdef bint _evict(self) noexcept nogil
    cdef void sweep_clients(self) noexcept nogil
    cdef void _sweep_client(self, Client *client) noexcept nogil
    cdef void _leave(self) noexcept nogil
    cdef void _query(self, Client *client, uint8_t *frame, int size) noexcept nogil
    cdef void _drop(self, Client *client) noexcept nogil
    cdef void _lose(self, Link *link) noexcept nogil
