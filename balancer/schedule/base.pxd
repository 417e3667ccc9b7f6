"""The contract of a scheduler: which of the usable servers takes the next query.

A scheduler knows the usable servers as a dense list of candidates (so a pick never walks over holes), their weights
and how many queries each has in flight. It knows no socket, no clock and no table: the data path tells it.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from balancer.table.layout cimport MAX_SERVERS

cdef enum:
    NO_SERVER = -1

cdef class Scheduler:
    cdef int count                          # candidates
    cdef int slot[MAX_SERVERS]              # candidate → server slot
    cdef int place[MAX_SERVERS]             # server slot → candidate, or NO_SERVER
    cdef int64_t weight[MAX_SERVERS]        # by candidate, 1..HEAVIEST
    cdef int64_t load[MAX_SERVERS]          # by candidate: in flight, all workers
    cdef int64_t own[MAX_SERVERS]           # by slot: in flight, this worker
    cdef int64_t others[MAX_SERVERS]        # by slot: in flight, the other workers, at the last `observe`

    cdef int pick(self, uint32_t key, int exclude) noexcept nogil
    cdef void claim(self, int slot) noexcept nogil
    cdef void release(self, int slot) noexcept nogil
    cdef void observe(self, int slot, int64_t others) noexcept nogil
    cdef void _add(self, int slot, int queries) noexcept nogil
    cdef int _rebuilt(self) except -1

cdef class TurnScheduler(Scheduler):
    cdef uint64_t turn[MAX_SERVERS]         # by slot: when its next turn is due, in virtual time
    cdef uint64_t now                       # virtual time: the turn that was taken last
    cdef uint64_t stride[MAX_SERVERS]       # by candidate: from one turn to its next
    # The tree: node 1 is the winner of all, node n that of 2n and 2n + 1, the leaves are the candidates in order.
    cdef uint64_t key[2 * MAX_SERVERS]      # load per weight, see _enter
    cdef uint64_t due[2 * MAX_SERVERS]      # turn and candidate
    cdef int leaves                         # first leaf, and how many there are: a power of two
    cdef int pending                        # candidate whose standing the tree does not know yet, or NO_SERVER
    cdef bint stale                         # the tree knows nothing

    cdef void _touch(self, int slot) noexcept nogil
    cdef void _settle(self) noexcept nogil
    cdef void _enter(self, int candidate) noexcept nogil
    cdef void _climb(self, int candidate) noexcept nogil
    cdef int _without(self, int exclude) noexcept nogil
    cdef void _rebase(self) noexcept nogil
