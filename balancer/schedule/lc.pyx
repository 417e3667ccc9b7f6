"""lc: least-connection.

IPVS's rule (net/netfilter/ipvs/ip_vs_lc.c): the server with the fewest queries in flight; the weight says only
whether it takes part (0 does not). Equals take turns.
"""

from libc.stdint cimport uint32_t

from balancer.schedule.base cimport TurnScheduler


cdef class LeastConnection(TurnScheduler):
    name = "lc"

    cdef int pick(self, uint32_t key, int exclude) noexcept nogil:
        return self.least(exclude, False)
