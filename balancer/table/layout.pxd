"""The layout of the shared memory: one file for every process that maps it.

Each memfd has one writer, who maps it read-write; all others map it read-only. Every field is an aligned 8-byte word
(or lies in a block that is written before the word that publishes it), stored relaxed; `generation` is stored with
release and loaded with acquire, so whoever sees a new generation sees the configuration that belongs to it. There
are no locks. Counters never decrease; a gauge says so. The comment of a field gives its unit; the heading of a
struct gives its writer and who resets it.

    config  memfd of the supervisor    ConfigHeader  ConfigService × services
    row     memfd of one worker        RowHeader     RowService × services   RowServer × services × 256
    slots   memfd of one worker        SlotsHeader   Query × capacity        (balancer/datapath/query.pxd)
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    #include "debug.h"
    static inline uint64_t ns7_load(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
    static inline uint64_t ns7_load_acquire(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
    static inline void ns7_store(uint64_t *word, uint64_t value) { __atomic_store_n(word, value, __ATOMIC_RELAXED); }
    static inline void ns7_store_release(uint64_t *word, uint64_t value) {
        __atomic_store_n(word, value, __ATOMIC_RELEASE);
    }
    /* One writer per word: no read-modify-write instruction is needed, only whole stores. */
    static inline void ns7_add(uint64_t *word, uint64_t amount) { ns7_store(word, ns7_load(word) + amount); }
    """
    uint64_t load "ns7_load"(const uint64_t *word) noexcept nogil
    uint64_t load_acquire "ns7_load_acquire"(const uint64_t *word) noexcept nogil
    void store "ns7_store"(uint64_t *word, uint64_t value) noexcept nogil
    void store_release "ns7_store_release"(uint64_t *word, uint64_t value) noexcept nogil
    void add "ns7_add"(uint64_t *word, uint64_t amount) noexcept nogil
    void check "NS7_CHECK"(bint condition) noexcept nogil

cdef enum:
    LAYOUT_VERSION = 1          # raised by every change of a struct in this file
    MAX_SERVERS = 256           # server slots per service
    NAME_BYTES = 64             # a name is at most 63 bytes of ASCII, padded with zeros

cdef enum:                      # ConfigServer.state
    SERVER_FREE = 0             # never used, or reused when nobody has it in flight any more
    SERVER_PRESENT = 1          # may be chosen if its weight is above 0
    SERVER_REMOVED = 2          # takes nothing new; what is in flight is still answered

cdef enum Drop:                 # RowService.dropped: why a query got no answer from a server
    DROP_SHORT = 0              # shorter than a DNS header
    DROP_RESPONSE               # QR=1 from a client: answering it would feed a loop
    DROP_SOURCE                 # port 0, multicast, broadcast or an address of ours
    DROP_TRUNCATED              # longer than the receive buffer
    DROP_NOT_ADMITTED           # an access list said no
    DROP_NO_SERVER              # no server may be chosen
    DROP_TABLE_FULL             # all slots, or all ids toward the server, are taken
    DROP_UNSENT                 # no server could be sent to
    DROP_BACKLOG_FULL           # the kernel took no more and the waiting room is full
    DROP_CLIENT_REFUSED_ADDRESS  # answer: EINVAL, EADDRNOTAVAIL, EAFNOSUPPORT
    DROP_CLIENT_DENIED          # answer: EPERM, EACCES
    DROP_CLIENT_UNREACHABLE     # answer: no route, host or network down
    DROP_CLIENT_TOO_LONG        # answer: EMSGSIZE
    DROP_CLIENT_ERROR           # answer: any other errno
    DROPS

cdef enum Rcode:                # RowServer.answers: RFC 1035 §4.1.1, RFC 2136 §2.2, everything above is OTHER
    RCODE_NOERROR = 0
    RCODE_FORMERR
    RCODE_SERVFAIL
    RCODE_NXDOMAIN
    RCODE_NOTIMP
    RCODE_REFUSED
    RCODE_OTHER
    RCODES

cdef enum Ignore:               # RowServer.ignored: why a datagram from a server was not taken for an answer
    IGNORE_SHORT = 0            # shorter than a DNS header
    IGNORE_NOT_RESPONSE         # QR=0
    IGNORE_UNKNOWN_ID           # nothing in flight with this id on this socket
    IGNORE_WRONG_QUESTION       # the question is not the one that was sent
    IGNORE_LATE                 # its query had timed out
    IGNORES

cdef enum:
    LATENCY_BUCKETS = 15        # upper bounds in LATENCY_BOUNDS_NS (table.pyx), the last has none

cdef struct ConfigHeader:       # writer: supervisor
    uint64_t magic
    uint64_t version            # LAYOUT_VERSION
    uint64_t size               # bytes of the whole mapping
    uint64_t services           # number of ConfigService that follow
    uint64_t generation         # raised after each change; release/acquire

cdef struct ConfigServer:       # writer: supervisor; a used slot keeps name and address until it is free again
    uint64_t state              # SERVER_*
    uint64_t weight             # 0..65535; 0 = drained
    uint64_t removed_at         # generation in which the server was removed
    uint8_t name[NAME_BYTES]
    uint8_t address[NAME_BYTES]  # "192.0.2.1:53", "[2001:db8::1]:53"

cdef struct ConfigService:      # writer: supervisor
    uint64_t udp_timeout_ns
    uint64_t used               # server slots 0..used-1 have ever been used
    uint8_t name[NAME_BYTES]
    uint8_t scheduler[NAME_BYTES]
    ConfigServer servers[MAX_SERVERS]

cdef struct RowHeader:          # writer: the worker; kept by its successor
    uint64_t magic
    uint64_t version
    uint64_t size
    uint64_t services
    uint64_t heartbeat_ns       # CLOCK_MONOTONIC, gauge
    uint64_t generation_seen    # newest generation this worker obeys
    uint64_t padding[2]

cdef struct RowService:         # writer: the worker
    uint64_t queries            # datagrams received from clients
    uint64_t answers            # answers handed to the kernel for a client
    uint64_t timeouts           # queries nobody answered within udp_timeout
    uint64_t in_flight          # gauge: queries pending
    uint64_t socket_drops       # datagrams the kernel dropped at full listening buffers
    uint64_t dropped[DROPS]
    uint64_t padding[5]         # whole cache lines

cdef struct RowServer:          # writer: the worker; whole cache lines, so two workers never share one
    uint64_t in_flight          # gauge: legs pending
    uint64_t queries            # legs sent
    uint64_t timeouts           # legs that got no answer within udp_timeout
    uint64_t refusals           # legs refused by an ICMP error or by the socket
    uint64_t resends            # legs sent here because another server refused
    uint64_t bytes_out          # bytes of DNS messages to the server
    uint64_t bytes_in           # bytes of answers from the server
    uint64_t forged_errors      # ICMP errors that quote nothing we have in flight
    uint64_t answers[RCODES]
    uint64_t ignored[IGNORES]
    uint64_t latency_sum_ns
    uint64_t latency[LATENCY_BUCKETS]
    uint64_t padding[4]
