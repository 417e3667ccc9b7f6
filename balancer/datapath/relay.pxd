"""DNS over TCP for one service: see relay.pyx."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from balancer.datapath.admission cimport Admission
from balancer.datapath.back cimport Back
from balancer.datapath.counts cimport Counts
from balancer.datapath.pool cimport Link, Pool
from balancer.datapath.stream cimport Stream, Streams
from balancer.schedule.base cimport Scheduler
from balancer.table.layout cimport RowServer, TcpRowServer, TcpRowService

cdef enum:
    SERVERS_TRIED = 2                   # per query, ever

cdef struct Exchange:                   # one query, until it is answered or given up
    Exchange *older                     # in `queue`
    Exchange *newer
    Queue *queue
    Exchange *previous                  # of the same client, in order of arrival
    Exchange *following
    Client *client
    Link *link                          # it was sent there; NULL: not sent now
    Link *first                         # it was sent there before, and may still be answered; NULL: it may not
    uint64_t since_ns                   # sent, or waiting, since
    uint64_t first_ns                   # sent over `first`
    int size                            # of `bytes`
    uint16_t question_end               # in the message, without prefix; 0: none that can be read
    uint16_t id
    int tried[SERVERS_TRIED]            # server slots
    uint8_t tries
    bint for_primary
    bint transfer
    bint update                         # never sent twice
    bint handed_over                    # may have reached a server
    bint waits                          # for a link, since `since_ns`
    bint timed_out                      # the last server was silent
    bint stale                          # met a pooled connection that its server was just closing
    int doubted_size                    # of `doubted`
    uint8_t *doubted                    # an answer, with its prefix, that is relayed if no other comes
    uint8_t bytes[1]                    # prefix and message; as many as it takes

cdef struct Queue:
    Exchange *oldest
    Exchange *newest

cdef struct Client:
    Stream stream
    Client *older                       # in `idle` or `busy`
    Client *newer
    Clients *list
    Client *resume_next
    Link *links                         # connections toward servers that it holds
    Exchange *first                     # its queries
    Exchange *last
    int pending
    int pending_bytes
    int reads                           # of the unfinished message
    uint8_t ending                      # 1 + TcpClose: takes no more queries, closes when nothing is pending
    bint half_closed
    bint answered                       # something was sent: a hard close could take it from the client
    bint lingering                      # all is sent, waits for the client to close
    bint full                           # reads on when enough is answered
    bint resuming                       # on the list of those that do
    uint32_t family                     # of `network`
    uint32_t key                        # address in 32 bits, for the scheduler
    uint64_t network                    # whom tcp_per_client counts: IPv4 address or IPv6 /64
    uint64_t queries
    uint64_t accepted_ns
    uint64_t since_ns                   # idle since, or lingering since
    uint64_t message_ns                 # when the unfinished message began; 0: there is none
    uint8_t address[28]                 # sockaddr_in or sockaddr_in6

cdef struct Clients:
    Client *oldest
    Client *newest

cdef struct Limits:                     # of this worker
    uint64_t timeout_ns
    uint64_t idle_ns
    uint64_t message_ns
    uint64_t lifetime_ns                # 0: none
    uint64_t queries                    # 0: none
    int reads
    int connections
    int per_client

cdef class Relay:
    cdef readonly int service
    cdef Streams streams
    cdef Pool pool
    cdef Back back                      # rows, and as a rule the scheduler, shared with UDP
    cdef Scheduler scheduler            # UDP's, or one of our own while other servers may be chosen than over UDP
    cdef bint apart                     # one of our own
    cdef Admission admission
    cdef Counts counts
    cdef Limits limits
    cdef int primary                    # server slot, or NO_SERVER
    cdef TcpRowService *row
    cdef TcpRowServer *rows             # by slot
    cdef Clients idle                   # oldest first: the longest idle
    cdef Clients busy
    cdef int open
    cdef Queue sent                     # oldest first
    cdef Queue waiting
    cdef Queue orphans                  # due for another server
    cdef Client *resuming
    cdef uint64_t leaving_ns            # idle clients are let go until then, the others after; 0: not yet
    cdef bint stopping
    cdef int doubted                    # queries that have an answer which waits for a better one
    cdef bint room                      # a connection toward a server came free

    cdef void observe(self) noexcept nogil
    cdef bint accept(self, int listener) noexcept nogil
    cdef void _welcome(self, int descriptor, const uint8_t *name, int size) noexcept nogil
    cdef void on_client(self, Client *client, uint32_t events) noexcept nogil
    cdef void _read_client(self, Client *client) noexcept nogil
    cdef void _linger(self, Client *client) noexcept nogil
    cdef void _serve(self, Client *client, int size) noexcept nogil
    cdef void _query(self, Client *client, uint8_t *frame, int size) noexcept nogil
    cdef void _dispatch(self, Exchange *exchange) noexcept nogil
    cdef Link *_held(self, Exchange *exchange, int only) noexcept nogil
    cdef Link *_choose(self, Exchange *exchange, int only, int *reason) noexcept nogil
    cdef bint _send(self, Exchange *exchange, Link *link) noexcept nogil
    cdef void _unsend(self, Exchange *exchange) noexcept nogil
    cdef void _release(self, Link *link) noexcept nogil
    cdef void _unsend_first(self, Exchange *exchange) noexcept nogil
    cdef void _await_first(self, Exchange *exchange) noexcept nogil
    cdef bint _ask_another(self, Exchange *exchange) noexcept nogil
    cdef void _rescued(self, Exchange *exchange, Link *link) noexcept nogil
    cdef void look(self) noexcept nogil
    cdef void _give_up(self, Exchange *exchange, int reason) noexcept nogil
    cdef void _say(self, Client *client, const uint8_t *frame, int size, int end, int rcode) noexcept nogil
    cdef void _forget(self, Exchange *exchange) noexcept nogil
    cdef void on_link(self, Link *link, uint32_t events) noexcept nogil
    cdef void _read_link(self, Link *link) noexcept nogil
    cdef bint _answer(self, Link *link, uint8_t *frame, int size) noexcept nogil
    cdef bint _doubt(self, Exchange *exchange, Link *link, int rcode, const uint8_t *frame, int size) noexcept nogil
    cdef void _let_go(self, Link *link) noexcept nogil
    cdef void _detach(self, Link *link) noexcept nogil
    cdef void _lose(self, Link *link) noexcept nogil
    cdef void _end(self, Client *client, int reason) noexcept nogil
    cdef void _close(self, Client *client, int reason) noexcept nogil
    cdef bint _evict(self) noexcept nogil
    cdef void _place(self, Client *client, Clients *list) noexcept nogil
    cdef bint _married(self, Client *client) noexcept nogil
    cdef void settle(self) noexcept nogil
    cdef void flush_client(self, Client *client) noexcept nogil
    cdef void flush_link(self, Link *link) noexcept nogil
    cdef bint unsettled(self) noexcept nogil
    cdef void sweep(self) noexcept nogil
    cdef void _leave(self) noexcept nogil
    cdef void _sweep_client(self, Client *client) noexcept nogil
    cdef void _expire(self) noexcept nogil
