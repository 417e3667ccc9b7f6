"""The layout of the shared memory: one file for every process that maps it.

Each memfd has one writer, who maps it read-write; all others map it read-only. Every field is an aligned 8-byte word
(or lies in a block that is written before the word that publishes it), stored relaxed; `generation` is stored with
release and loaded with acquire, so whoever sees a new generation sees the configuration that belongs to it. There
are no locks. Counters never decrease; a gauge says so. The comment of a field gives its unit; the heading of a
struct gives its writer and who resets it.

    config  memfd of the supervisor    ConfigHeader  ConfigService × 64
    health  memfd of the one who judges HealthHeader  HealthServer × 64 × 256             (verdicts.pyx)
    row     memfd of one worker        RowHeader     RowService × 64   RowServer × 64 × 256
                                       then the same for TCP: TcpRowService, TcpRowServer
    slots   memfd of one worker        SlotsHeader   Query × capacity  long queries  inbox   (datapath/query.pxd)

Services, like servers, live in numbered slots of a fixed number, so a service comes or goes without new memory; pages
that nobody touches cost nothing.
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
    LAYOUT_VERSION = 7          # raised by every change of a struct in this file
    MAX_SERVICES = 64           # service slots
    MAX_SERVERS = 256           # server slots per service
    NAME_BYTES = 64             # a name is at most 63 bytes of ASCII, padded with zeros
    REASON_BYTES = 160          # one line of ASCII, padded with zeros

cdef enum:                      # ConfigService.state
    SERVICE_FREE = 0
    SERVICE_PRESENT = 1
    SERVICE_REMOVED = 2         # its workers still answer what is in flight

cdef enum:                      # ConfigServer.state
    SERVER_FREE = 0             # never used, or reused when nobody has it in flight any more
    SERVER_PRESENT = 1          # may be chosen if its weight is above 0
    SERVER_REMOVED = 2          # takes nothing new; what is in flight is still answered

cdef enum:                      # HealthVerdict.verdict
    VERDICT_UNKNOWN = 0         # counts as up
    VERDICT_UP = 1
    VERDICT_DOWN = 2            # takes nothing new
    VERDICT_SPARED = 3          # down, but one of the least bad where too few are up: may be chosen

cdef enum:                      # HealthServer.of
    PROTO_UDP = 0
    PROTO_TCP = 1
    PROTOS = 2

cdef enum Ordered:              # ConfigServer.ordered: the operator's word, which stands above every judgement
    ORDERED_AUTO = 0            # none: weight, verdict and suspicion decide
    ORDERED_UP                  # counts as up, whatever anybody says
    ORDERED_DOWN                # counts as down
    ORDERED_DRAINED             # takes nothing new; well otherwise
    ORDERS

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
    DROP_PRIMARY_DOWN           # UPDATE or NOTIFY while `primary` may not be chosen: SERVFAIL
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

cdef enum TcpDrop:              # TcpRowService.dropped: why a query got no answer from a server
    TCP_DROP_RESPONSE = 0       # QR=1 from a client; its connection is closed
    TCP_DROP_NOT_ADMITTED       # an access list said no: REFUSED, or the connection is closed
    TCP_DROP_NO_SERVER          # no server may be chosen: SERVFAIL
    TCP_DROP_PRIMARY_DOWN       # UPDATE or NOTIFY while `primary` may not be chosen: SERVFAIL
    TCP_DROP_NO_CONNECTION      # all connections toward the servers stayed in use: SERVFAIL
    TCP_DROP_UNSENT             # the servers asked refused or closed the connection: SERVFAIL
    TCP_DROP_CLIENT_GONE        # the client closed its connection, or was closed, before the answer
    TCP_DROP_NO_MEMORY          # the room for queries and answers is full: SERVFAIL
    TCP_DROP_WORKER_LOST        # the worker that held both connections ended
    TCP_DROPS

cdef enum TcpClose:             # TcpRowService.closed: why a client's connection ended
    TCP_CLOSE_CLIENT = 0        # the client closed it
    TCP_CLOSE_RESET             # the client reset it, or the network did
    TCP_CLOSE_IDLE              # tcp_idle
    TCP_CLOSE_EVICTED           # idle, while connections were nearly all in use
    TCP_CLOSE_FULL              # tcp_connections_max, on arrival
    TCP_CLOSE_PER_CLIENT        # tcp_per_client, on arrival
    TCP_CLOSE_MESSAGE_TIME      # a message took too long
    TCP_CLOSE_MESSAGE_READS     # a message came in too many pieces
    TCP_CLOSE_NOT_A_MESSAGE     # announced length below 12
    TCP_CLOSE_RESPONSE          # it sent QR=1
    TCP_CLOSE_NOT_ADMITTED      # it may not even query
    TCP_CLOSE_QUERIES           # tcp_queries
    TCP_CLOSE_LIFETIME          # tcp_lifetime
    TCP_CLOSE_UNREAD            # it did not read its answers
    TCP_CLOSE_SERVER_LOST       # the server ended a connection that carried a transfer
    TCP_CLOSE_NO_MEMORY         # the room for queries and answers is full
    TCP_CLOSE_STOP              # ns7 stops
    TCP_CLOSE_WORKER_LOST       # the worker that held it ended
    TCP_CLOSES

cdef enum:
    LATENCY_BUCKETS = 15        # upper bounds in LATENCY_BOUNDS_NS (table.pyx), the last has none

cdef struct ConfigHeader:       # writer: supervisor
    uint64_t magic
    uint64_t version            # LAYOUT_VERSION
    uint64_t size               # bytes of the whole mapping
    uint64_t services           # number of ConfigService that follow: MAX_SERVICES
    uint64_t generation         # raised after each change; release/acquire
    uint64_t identities         # servers ever added

cdef struct ConfigServer:       # writer: supervisor; a used slot keeps name and address until it is free again
    uint64_t state              # SERVER_*
    uint64_t weight             # 0..65535; 0 = drained
    uint64_t ordered            # ORDERED_*
    uint64_t since_ns           # CLOCK_MONOTONIC when it was added or undrained; 0: it was there from the start
    uint64_t removed_at         # generation in which the server was removed
    uint64_t identity           # the how-manieth server ever added: no two have the same, also in one slot
    uint8_t name[NAME_BYTES]
    uint8_t address[NAME_BYTES]  # "192.0.2.1:53", "[2001:db8::1]:53"

cdef struct ConfigService:      # writer: supervisor
    uint64_t state              # SERVICE_*
    uint64_t udp_timeout_ns
    uint64_t retry              # 1: queries may be sent to a second server
    uint64_t retry_after_ns     # 0: automatic
    uint64_t retry_percent      # budget of second servers for queries that only take long
    uint64_t retry_rcodes       # bit 2: SERVFAIL is not believed before another server was asked, and so on
    uint64_t suspend            # 1: servers that do not answer are passed over
    uint64_t min_alive          # with fewer trusted servers all are tried
    uint64_t when_all_down      # WhenAllDown (datapath/back.pxd)
    uint64_t slow_start_ns      # time in which a server that comes back reaches its weight
    uint64_t primary            # server slot + 1 that SOA, AXFR, IXFR, NOTIFY and UPDATE go to; 0 = none
    uint64_t used               # server slots 0..used-1 have ever been used
    uint8_t name[NAME_BYTES]
    uint8_t scheduler[NAME_BYTES]
    ConfigServer servers[MAX_SERVERS]

cdef struct HealthHeader:       # writer: the process with the right `verdicts`; kept by its successor
    uint64_t magic
    uint64_t version
    uint64_t size
    uint64_t services
    uint64_t heartbeat_ns       # CLOCK_MONOTONIC, gauge; old: every verdict counts as unknown
    uint64_t generation         # raised after each change of a verdict; release/acquire
    uint64_t padding[2]

cdef struct HealthVerdict:      # writer: the same
    uint64_t verdict            # Verdict
    uint64_t since_ns           # CLOCK_MONOTONIC when up became down or down up; 0: not known yet
    uint64_t returned_ns        # CLOCK_MONOTONIC when it last came back; 0: never
    uint64_t probed_ns          # CLOCK_MONOTONIC of the newest probe's end
    uint64_t latency_ns         # of the newest probe that was answered
    uint8_t reason[REASON_BYTES]  # why it is, or was last, down

cdef struct HealthServer:       # writer: the same
    uint64_t identity           # ConfigServer.identity of whom it speaks
    uint64_t changes            # odd while a reason is written
    HealthVerdict of[PROTOS]

cdef struct RowHeader:          # writer: the worker; kept by its successor
    uint64_t magic
    uint64_t version
    uint64_t size
    uint64_t services
    uint64_t heartbeat_ns       # CLOCK_MONOTONIC, gauge
    uint64_t generation_seen    # newest generation this worker obeys
    uint64_t moves              # row of the past only, writer supervisor: odd while counters move into it
    uint64_t padding

cdef struct RowService:         # writer: the worker
    uint64_t queries            # datagrams received from clients
    uint64_t answers            # answers handed to the kernel for a client
    uint64_t timeouts           # queries nobody answered within udp_timeout
    uint64_t in_flight          # gauge: queries pending
    uint64_t socket_drops       # row of the past only: datagrams the kernel dropped at full listening buffers
    uint64_t unkept             # queries too long to be kept: forwarded, but never re-sent
    uint64_t dropped[DROPS]
    uint64_t padding[4]         # whole cache lines

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
    uint64_t suspect_since_ns   # CLOCK_MONOTONIC; 0: this worker does not suspect the server
    uint64_t suspect_until_ns   # the suspicion ends by itself unless it is renewed
    uint64_t refused_ns         # newest proven refusal
    uint64_t seen_well_ns       # newest valid answer
    uint64_t open               # gauge: sockets the worker has toward the server; 0: it touches this struct no more
    uint64_t padding[7]

cdef struct TcpRowService:      # writer: the worker
    uint64_t queries            # messages received from clients
    uint64_t answers            # answers of servers passed on; of a transfer only the first message
    uint64_t timeouts           # queries that no server answered in time: SERVFAIL
    uint64_t in_flight          # gauge: queries pending
    uint64_t transfers          # AXFR and IXFR sent to a server
    uint64_t connections        # accepted
    uint64_t open               # gauge: connections of clients
    uint64_t dropped[TCP_DROPS]
    uint64_t closed[TCP_CLOSES]
    uint64_t padding[6]         # whole cache lines

cdef struct TcpRowServer:       # writer: the worker; whole cache lines
    uint64_t in_flight          # gauge: queries pending; RowServer.in_flight has them too
    uint64_t queries            # queries sent
    uint64_t timeouts           # queries that got no answer within tcp_timeout
    uint64_t failures           # connections refused, or lost with queries pending
    uint64_t resends            # queries sent here because another server's connection failed
    uint64_t bytes_out          # bytes of DNS messages to the server
    uint64_t bytes_in           # bytes of answers from the server
    uint64_t connections        # opened
    uint64_t open               # gauge: connections toward the server
    uint64_t idle               # gauge: of these, connections that no client holds
    uint64_t answers[RCODES]
    uint64_t ignored[IGNORES]
    uint64_t latency_sum_ns
    uint64_t latency[LATENCY_BUCKETS]
    uint64_t failed_ns          # CLOCK_MONOTONIC of its newest failure: refused, lost, silent while others answered
    uint64_t answered_ns        # newest answer
