"""lc: least-connection.

IPVS's rule (net/netfilter/ipvs/ip_vs_lc.c): the server with the fewest queries in flight; the weight says only
whether it takes part (0 does not). Equals take turns.
"""

from balancer.schedule.base cimport TurnScheduler


cdef class LeastConnection(TurnScheduler):
    name = "lc"

    cdef int _rebuilt(self) except -1:
        cdef int candidate
        for candidate in range(self.count):
            self.weight[candidate] = 1
        return TurnScheduler._rebuilt(self)
