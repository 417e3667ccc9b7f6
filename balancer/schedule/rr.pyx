"""rr: round robin.

IPVS's rule (net/netfilter/ipvs/ip_vs_rr.c): the next usable server after the one used last; the weight says only
whether it takes part.
"""

from libc.stdint cimport uint32_t

from balancer.schedule.base cimport NO_SERVER, Scheduler


cdef class RoundRobin(Scheduler):
    cdef int last                   # server slot used last, so that a rebuilt list goes on where it was

    name = "rr"

    def __cinit__(self):
        self.last = NO_SERVER

    cdef int pick(self, uint32_t key, int exclude) noexcept nogil:
        cdef int candidate = 0, _tries
        if self.count == 0:
            return NO_SERVER
        if self.last != NO_SERVER and self.place[self.last] != NO_SERVER:
            candidate = self.place[self.last] + 1
        else:
            while candidate < self.count and self.slot[candidate] <= self.last:
                candidate += 1
        for _tries in range(self.count):
            if candidate >= self.count:
                candidate = 0
            if self.slot[candidate] != exclude:
                self.last = self.slot[candidate]
                return self.last
            candidate += 1
        return NO_SERVER
