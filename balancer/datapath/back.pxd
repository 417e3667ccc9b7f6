"""The side toward the servers of one service."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from balancer.datapath.front cimport Front
from balancer.datapath.killers cimport Killers
from balancer.datapath.mmsg cimport Inbox, Outbox
from balancer.datapath.query cimport Query, Slots
from balancer.datapath.recovery cimport Recovery
from balancer.datapath.retry cimport Budget, Trust
from balancer.datapath.syscalls cimport sockaddr_in6
from balancer.schedule.base cimport Scheduler
from balancer.table.layout cimport MAX_SERVERS, PROTOS, RowServer, RowService

cdef enum:
    ANSWERS = 128                       # answers per round
    MAX_SOCKETS = 64                    # toward one server
    RESCHEDULED = 4096                  # queries that wait for a second server within one wake
    HELD_MOST = 256                     # answers that wait for a better one
    HELD_BYTES = 512                    # of one; a longer answer is relayed at once

cdef enum WhenAllDown:
    TRY_ALL = 0
    SAY_SERVFAIL = 1
    SAY_NOTHING = 2

cdef struct Server:
    int sockets                         # open ones; 0: this slot takes nothing
    int turn                            # socket of the current batch
    uint64_t batch                      # batch in which `turn` moved last
    int descriptor[MAX_SOCKETS]
    sockaddr_in6 peer                   # where they are connected to
    int peer_size
    Trust trust
    bint ordered_up                     # the operator says so: trusted, whatever is seen
    bint suspected_elsewhere            # another worker suspects it, and nobody has heard it since
    int verdict[PROTOS]                 # Verdict of those who probe it
    uint64_t returned_ns[PROTOS]        # when, by those verdicts, it last came back; 0: never
    uint64_t refused_ns                 # the newest refusal known of, by any worker
    int first                           # legs that wait for this server alone, in order of sending
    int last
    bint rescue                         # those are due for another server now

cdef struct Held:                       # an answer that is relayed if no other comes
    int number                          # its query
    int size
    uint64_t due_ns
    uint8_t bytes[HELD_BYTES]

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
    cdef bint retry_on
    cdef bint suspend_on
    cdef uint64_t retry_after_ns        # 0: automatic
    cdef uint64_t suspend_after_ns
    cdef WhenAllDown when_all_down
    cdef Budget budget
    cdef uint64_t rcodes                # bit n: an answer of rcode n is held while another server is asked
    cdef Budget rcode_budget
    cdef Held *held                     # 0..held_count-1
    cdef int held_count
    cdef int present[MAX_SERVERS]       # slots that may be chosen as far as the configuration is concerned
    cdef int present_count
    cdef int distrusted                 # how many of them are suspected or doubtful now
    cdef bint nobody_up                 # by the verdicts none of them is up
    cdef bint stale                     # who is trusted has changed: the scheduler must be told
    cdef bint rescues_due               # some server's `rescue` is set
    cdef bint stranded                  # some pending query has no leg, or wants a second one
    cdef Recovery recovery
    cdef int newest                     # the query that arrived last, for doubling
    cdef int used                       # slots 0..used-1 may have sockets
    cdef Killers killers
    cdef uint64_t batch
    cdef int rescheduled[RESCHEDULED]   # query numbers
    cdef int rescheduled_count
    cdef int answered[ANSWERS]          # query numbers whose answers are staged
    cdef int answered_count
    cdef readonly int waiting           # legs that the kernel would not take

    cdef uint64_t now                   # CLOCK_MONOTONIC of the present wake

    cdef void handle(self) noexcept nogil
    cdef int _pick(self, Query *query, int exclude) noexcept nogil
    cdef bint suspected(self, int slot) noexcept nogil
    cdef bint trusted(self, int slot) noexcept nogil
    cdef bint trusted_tcp(self, int slot) noexcept nogil
    cdef bint _anyone(self) noexcept nogil
    cdef bint _others(self, Query *query) noexcept nogil
    cdef int _dispatch(self, int number, int slot, uint8_t *bytes) noexcept nogil
    cdef void _enlist(self, int leg) noexcept nogil
    cdef void _delist(self, int leg) noexcept nogil
    cdef bint _ask_another(self, int number) noexcept nogil
    cdef void _rescue(self) noexcept nogil
    cdef void refused(self, int slot) noexcept nogil
    cdef void _double(self) noexcept nogil
    cdef void look(self) noexcept nogil
    cdef void look_back(self) noexcept nogil
    cdef bint full(self) noexcept nogil
    cdef int _send_oldest(self, int most) noexcept nogil
    cdef bint _affords(self, int slot) noexcept nogil
    cdef bint _overdue(self, Query *query) noexcept nogil
    cdef bint _may_ask_another(self, Query *query) noexcept nogil
    cdef void _first(self, int number, uint8_t *bytes) noexcept nogil
    cdef void _judge_killers(self) noexcept nogil
    cdef void _send_once_more(self, int number, Query *query, uint8_t *bytes) noexcept nogil
    cdef bint _went_to_returned(self, Query *query) noexcept nogil
    cdef void _repeat(self, int number, int place, uint8_t *bytes) noexcept nogil
    cdef void _say_servfail(self, int number) noexcept nogil
    cdef void send_again(self) noexcept nogil
    cdef bint _hold(self, int leg, const uint8_t *bytes, int size) noexcept nogil
    cdef void _release_held(self, Query *query) noexcept nogil
    cdef void _relay_held(self, int number) noexcept nogil
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
