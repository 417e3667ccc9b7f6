"""DNS over TCP for one service: see relay.pyx."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from balancer.datapath.admission cimport Admission
from balancer.datapath.back cimport Back
from balancer.datapath.clients cimport Clients
from balancer.datapath.exchange cimport Client, Exchange, Queue
from balancer.datapath.pool cimport Link, Pool
from balancer.schedule.base cimport Scheduler
from balancer.table.layout cimport TcpRowServer

cdef class Relay(Clients):
    cdef Pool pool
    cdef Back back                      # rows, and as a rule the scheduler, shared with UDP
    cdef Scheduler scheduler            # UDP's, or one of our own while other servers may be chosen than over UDP
    cdef bint apart                     # one of our own
    cdef Admission admission
    cdef int primary                    # server slot, or NO_SERVER
    cdef TcpRowServer *rows             # by slot
    cdef Queue sent                     # oldest first
    cdef Queue waiting
    cdef Queue orphans                  # due for another server
    cdef Queue stranded                 # every server fails: for who comes back first
    cdef uint64_t tried_ns              # when those were last tried again
    cdef uint64_t moved_ns              # when it was last looked whether a client should go on elsewhere
    cdef int doubted                    # queries that have an answer which waits for a better one

    cdef void observe(self) noexcept nogil
    cdef void _dispatch(self, Exchange *exchange) noexcept nogil
    cdef Link *_held(self, Exchange *exchange, int only) noexcept nogil
    cdef Link *_lighter(self, Exchange *exchange, Link *held) noexcept nogil
    cdef void _hold(self, Client *client, Link *link) noexcept nogil
    cdef Link *_choose(self, Exchange *exchange, int only, int *reason) noexcept nogil
    cdef bint _send(self, Exchange *exchange, Link *link) noexcept nogil
    cdef void _unsend(self, Exchange *exchange) noexcept nogil
    cdef void _release(self, Link *link) noexcept nogil
    cdef void _unsend_first(self, Exchange *exchange) noexcept nogil
    cdef void _await_first(self, Exchange *exchange) noexcept nogil
    cdef bint _ask_another(self, Exchange *exchange) noexcept nogil
    cdef void _rescued(self, Exchange *exchange, Link *link) noexcept nogil
    cdef void look(self) noexcept nogil
    cdef bint _strand(self, Exchange *exchange) noexcept nogil
    cdef void _try_again(self) noexcept nogil
    cdef void _give_up(self, Exchange *exchange, int reason) noexcept nogil
    cdef void _say(self, Client *client, const uint8_t *frame, int size, int end, int rcode) noexcept nogil
    cdef void _forget(self, Exchange *exchange) noexcept nogil
    cdef void on_link(self, Link *link, uint32_t events) noexcept nogil
    cdef void _read_link(self, Link *link) noexcept nogil
    cdef bint _answer(self, Link *link, uint8_t *frame, int size) noexcept nogil
    cdef bint _doubt(self, Exchange *exchange, Link *link, int rcode, const uint8_t *frame, int size) noexcept nogil
    cdef void _let_go(self, Link *link) noexcept nogil
    cdef void _detach(self, Link *link) noexcept nogil
    cdef void settle(self) noexcept nogil
    cdef void flush_link(self, Link *link) noexcept nogil
    cdef bint unsettled(self) noexcept nogil
    cdef void sweep(self) noexcept nogil
    cdef void _expire(self) noexcept nogil
