"""Queries in flight: records, legs and ids. The records lie in a memfd of the supervisor's, so that they outlive
the worker; every index over them (free list, hash, order of time) is private and rebuilt by a successor."""

from libc.stddef cimport size_t
from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t, uint64_t

from balancer.table.table cimport Region

cdef enum:
    BATCH = 64                      # queries per recvmmsg
    LONG_QUERIES = 64               # queries above KEPT_BYTES that are kept whole at a time
    NONE = -1
    KEPT_BYTES = 512                # of each query: enough for its question, and for all of almost any query
    LEGS = 2                        # servers that one query may be sent to, ever

cdef enum:
    QUERY_FREE = 0
    QUERY_PENDING = 1
    QUERY_ANSWERED = 2              # kept because a silent leg is still out

cdef enum:
    LEG_FREE = 0
    LEG_WAITING = 1                 # chosen, not yet taken by the kernel
    LEG_SENT = 2

cdef struct Leg:                    # one server asked
    uint64_t sent_ns                # CLOCK_MONOTONIC
    uint32_t socket                 # number of the socket toward the server, unique in the worker
    int next                        # hash chain: leg number, or NONE
    int earlier                     # order of sending among the legs that wait for their server alone: leg
    int later                       # numbers, or NONE
    uint16_t server                 # slot in its service
    uint16_t id                     # on the wire toward the server
    uint16_t state
    uint8_t waits                   # in that order
    uint8_t again                   # sent more than once: its answer is no sample (RFC 6298 §3)

cdef struct Query:                  # writer: the worker; reset when claimed
    uint64_t received_ns            # CLOCK_MONOTONIC
    uint32_t state
    int older                  # order of arrival within the service: query number, or NONE
    int newer
    uint32_t key                    # the client's address in 32 bits, for sh
    uint32_t interface              # IPV6_PKTINFO: where a link-local query came in, else 0
    uint16_t service
    uint16_t listener
    uint16_t client_id
    uint16_t size                   # of the whole query
    uint16_t question_end           # wire.question_end
    int16_t kept                    # number of the long query's own memory, or NONE
    int16_t held                    # number of the answer that waits for a better one (back.pxd), or NONE
    uint8_t answered                # an answer is staged or sent
    uint8_t client_size             # bytes used of `client`
    uint8_t legs_used
    Leg legs[LEGS]
    uint8_t client[28]              # sockaddr_in or sockaddr_in6
    uint8_t local[16]               # the address that was asked, on a wildcard listener
    uint8_t bytes[KEPT_BYTES]       # the query with the id it was sent with

cdef struct SlotsHeader:            # writer: the worker
    uint64_t magic
    uint64_t version
    uint64_t size
    uint64_t stride
    uint64_t high_water             # records 0..high_water-1 have ever been used
    uint64_t padding[3]

cdef class Slots(Region):
    cdef SlotsHeader *header
    cdef uint8_t *records
    cdef readonly int capacity
    cdef int *free
    cdef readonly int in_use
    cdef int free_count
    cdef int *chain                 # hash table: first leg number of each chain, or NONE
    cdef uint32_t chain_mask
    cdef uint64_t *ghosts           # (socket, id) of timed-out legs, to tell late answers from foreign ones
    cdef int *oldest                # by service
    cdef int *newest
    cdef int services
    cdef uint8_t *long_queries
    cdef size_t inbox               # offset of the inbox in the region
    cdef int[LONG_QUERIES] long_free
    cdef int long_free_count
    cdef uint16_t[2048] pool        # random ids
    cdef int pool_left

    cdef Query *query(self, int number) noexcept nogil
    cdef bint keep(self, int number, const uint8_t *bytes, int size) noexcept nogil
    cdef uint8_t *bytes(self, int number) noexcept nogil
    cdef Leg *leg(self, int leg) noexcept nogil
    cdef int claim(self, int service, uint64_t now) noexcept nogil
    cdef void release(self, int number) noexcept nogil
    cdef int open_leg(self, int number, int server, uint32_t socket, int fixed_id) noexcept nogil
    cdef void close_leg(self, int leg) noexcept nogil
    cdef int find(self, uint32_t socket, uint16_t id) noexcept nogil
    cdef void remember(self, int leg) noexcept nogil
    cdef bint was_late(self, uint32_t socket, uint16_t id) noexcept nogil
    cdef uint16_t random16(self) noexcept nogil
    cdef void _append(self, int number) noexcept nogil
    cdef void _link(self, int leg) noexcept nogil
