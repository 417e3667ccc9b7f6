"""Connections toward the servers of one service: see pool.pyx."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from balancer.datapath.retry cimport Trust
from balancer.datapath.stream cimport Stream, Streams
from balancer.datapath.syscalls cimport sockaddr_in6
from balancer.table.layout cimport MAX_SERVERS, TcpRowServer

cdef enum:
    TRANSFERS_KNOWN = 8                 # ids of transfers on one connection; more of them: the oldest is forgotten
    OWED_KNOWN = 16                     # answers that nobody waits for any more; more of them: it is poisoned

cdef struct Link:                       # one connection toward a server
    Stream stream
    void *client                        # who holds it; NULL: idle in the pool
    Link *next                          # of the same client
    Link *older                         # idle ones of the same server
    Link *newer
    int slot
    bint connecting
    bint reused                         # came from the pool, and nothing was answered since
    bint married                        # carried a transfer: never goes back to the pool
    bint poisoned                       # something unasked came, or an answer did not: never goes back either
    bint transferring                   # a message of a transfer was passed on
    int outstanding                     # queries
    int transfers
    uint16_t transfer_ids[TRANSFERS_KNOWN]
    bint silent                         # a query on it was sent to another server too, and nothing was answered since
    int owed                            # ids of queries that another server has answered
    uint16_t owed_ids[OWED_KNOWN]
    uint64_t since_ns                   # connecting since, then open since; in the pool idle since
    uint64_t answered_ns                # last answer

cdef struct Target:                     # one server
    bint present                        # may be connected to
    int limit                           # connections of this worker
    int open
    int address_size
    int source_size                     # 0: the kernel chooses
    sockaddr_in6 address
    sockaddr_in6 source
    Link *oldest                        # idle
    Link *newest
    bint failing                        # it failed, and has not answered since
    uint64_t failing_since_ns
    uint64_t returned_ns                # when it answered again after it had failed for long; 0: never
    uint64_t avoided_until_ns           # others first
    Trust trust                         # its times, and its silence; by what goes over TCP alone

cdef bint is_shortage(int number) noexcept nogil


cdef class Pool:
    cdef Streams streams
    cdef TcpRowServer *rows             # by slot
    cdef Target targets[MAX_SERVERS]
    cdef int used                       # slots 0..used-1 have ever been used
    cdef bint starved                   # the last `take` failed for want of a descriptor or memory

    cdef Link *take(self, int slot, bint fresh) noexcept nogil
    cdef Link *_connect(self, int slot) noexcept nogil
    cdef bint full(self, int slot) noexcept nogil
    cdef void give(self, Link *link) noexcept nogil
    cdef void close_link(self, Link *link) noexcept nogil
    cdef void _unlist(self, Link *link) noexcept nogil
    cdef void avoid(self, int slot) noexcept nogil
    cdef bint avoided(self, int slot) noexcept nogil
    cdef void asked(self, int slot) noexcept nogil
    cdef bint heard(self, int slot) noexcept nogil
    cdef bint learn(self, int slot, uint64_t failed_ns, uint64_t answered_ns) noexcept nogil
    cdef void _fail(self, int slot, uint64_t since, uint64_t until) noexcept nogil
    cdef void _trust(self, int slot) noexcept nogil
    cdef void on_idle_event(self, Link *link) noexcept nogil
    cdef void expire(self, bint everything) noexcept nogil
