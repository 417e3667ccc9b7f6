"""The side toward the servers of one service."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from balancer.datapath.front cimport Front
from balancer.datapath.mmsg cimport Inbox, Outbox
from balancer.datapath.query cimport Query, Slots
from balancer.datapath.syscalls cimport sockaddr_in6
from balancer.schedule.base cimport Scheduler
from balancer.table.layout cimport MAX_SERVERS, RowServer, RowService

cdef enum:
    ANSWERS = 128                       # answers per round
    MAX_SOCKETS = 64                    # toward one server
    RESCHEDULED = 4096                  # queries that wait for a second server within one wake

cdef struct Server:
    int sockets                         # open ones; 0: this slot takes nothing
    int turn                            # socket of the current batch
    uint64_t batch                      # batch in which `turn` moved last
    int descriptor[MAX_SOCKETS]
    sockaddr_in6 peer                   # where they are connected to
    int peer_size

cdef class Back:
    cdef readonly int service
    cdef Slots slots
    cdef Front front
    cdef Scheduler scheduler
    cdef int primary                    # slot that SOA, AXFR, IXFR, NOTIFY and UPDATE go to, or NO_SERVER
    cdef Inbox inbox
    cdef Outbox outbox
    cdef RowService *row
    cdef RowServer *rows                # by slot
    cdef Server servers[MAX_SERVERS]
    cdef uint64_t timeout_ns
    cdef uint64_t batch
    cdef int rescheduled[RESCHEDULED]   # query numbers
    cdef int rescheduled_count
    cdef int answered[ANSWERS]          # query numbers whose answers are staged
    cdef int answered_count
    cdef readonly int waiting           # legs that the kernel would not take

    cdef uint64_t now                   # CLOCK_MONOTONIC of the present wake

    cdef void handle(self) noexcept nogil
    cdef int _pick(self, Query *query, int exclude) noexcept nogil
    cdef int _dispatch(self, int number, int exclude, uint8_t *bytes) noexcept nogil
    cdef void send_again(self) noexcept nogil
    cdef void _give_up(self, int number, int reason) noexcept nogil
    cdef void flush(self) noexcept nogil
    cdef void _second_servers(self) noexcept nogil
    cdef void _send(self, uint32_t socket, int size) noexcept nogil
    cdef void _reopen(self, uint32_t socket) noexcept nogil
    cdef void _wait(self, int leg) noexcept nogil
    cdef void _close(self, int leg) noexcept nogil
    cdef void _fail(self, int leg) noexcept nogil
    cdef int receive(self, uint32_t socket) noexcept nogil
    cdef void finish_answers(self) noexcept nogil
    cdef void _take(self, uint32_t socket, uint8_t *bytes, int size) noexcept nogil
    cdef void read_errors(self, uint32_t socket) noexcept nogil
    cdef void expire(self) noexcept nogil
    cdef void retry(self) noexcept nogil
    cdef int _descriptor(self, uint32_t socket) noexcept nogil

cdef inline uint32_t socket_number(int service, int slot, int place) noexcept nogil:
    """The number of a socket toward a server: the same in every worker, and after a restart."""
    return <uint32_t>((service * MAX_SERVERS + slot) * MAX_SOCKETS + place)
