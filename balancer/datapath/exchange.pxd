"""Clients and their queries over TCP, as structs that lie in several lists at once. Pure.

A query (`Exchange`) is in its client's list, in order of arrival, and in at most one `Queue` of what it waits for.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from balancer.datapath.pool cimport Link
from balancer.datapath.stream cimport Stream

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
    uint64_t arrived_ns
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
    ClientList *list
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

cdef struct ClientList:
    Client *oldest
    Client *newest


cdef inline void enqueue(Queue *queue, Exchange *exchange) noexcept nogil:
    exchange.queue = queue
    exchange.newer = NULL
    exchange.older = queue.newest
    if queue.newest != NULL:
        queue.newest.newer = exchange
    else:
        queue.oldest = exchange
    queue.newest = exchange


cdef inline void dequeue(Exchange *exchange) noexcept nogil:
    cdef Queue *queue = exchange.queue
    if queue == NULL:
        return
    if exchange.older != NULL:
        exchange.older.newer = exchange.newer
    else:
        queue.oldest = exchange.newer
    if exchange.newer != NULL:
        exchange.newer.older = exchange.older
    else:
        queue.newest = exchange.older
    exchange.older = exchange.newer = NULL
    exchange.queue = NULL


cdef inline bint tried(const Exchange *exchange, int slot) noexcept nogil:
    cdef int index
    for index in range(exchange.tries):
        if exchange.tried[index] == slot:
            return True
    return False
