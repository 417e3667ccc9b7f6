"""wrr: weighted round robin.

IPVS's rule (net/netfilter/ipvs/ip_vs_wrr.c), the interleaved form: a level cw walks from the highest weight down by
the greatest common divisor of all weights; each walk over the list takes the servers whose weight reaches the level.
A change of the list starts at its head again, with the level at max - gcd + 1 as the kernel sets it.
"""

from libc.stdint cimport int64_t, uint32_t

from balancer.schedule.base cimport NO_SERVER, Scheduler


cdef class WeightedRoundRobin(Scheduler):
    cdef int at                     # candidate looked at last
    cdef int64_t level              # cw
    cdef int64_t highest            # max weight - gcd + 1: where the level starts
    cdef int64_t step               # gcd of the weights

    name = "wrr"
    ramps = True

    cdef int _rebuilt(self) except -1:
        cdef int candidate
        cdef int64_t a, b, most = 0
        self.step = 0
        for candidate in range(self.count):
            most = max(most, self.weight[candidate])
            a = self.weight[candidate]
            b = self.step
            while b:
                a, b = b, a % b
            self.step = a
        self.highest = most - (self.step - 1) if self.count else 0
        self.level = self.highest
        self.at = -1
        return 0

    cdef int pick(self, uint32_t key, int exclude) noexcept nogil:
        cdef int candidate = self.at
        cdef int64_t level = self.level, most = self._most_without(exclude)
        while most:                     # somebody reaches the lowest level, so this ends within two walks
            candidate += 1
            if candidate >= self.count:
                candidate = 0
                level -= self.step
                if level <= 0:
                    level = self.highest
                if level > most:        # levels that `exclude` alone reaches are not worth a walk each
                    level -= (level - most + self.step - 1) // self.step * self.step
            if self.weight[candidate] >= level and self.slot[candidate] != exclude:
                self.at = candidate
                self.level = level
                return self.slot[candidate]
        return NO_SERVER

    cdef int64_t _most_without(self, int exclude) noexcept nogil:
        """The highest weight of the candidates but `exclude`; 0 when there are none."""
        cdef int candidate
        cdef int64_t most = 0
        if exclude == NO_SERVER or self.place[exclude] == NO_SERVER:
            return self.highest + self.step - 1 if self.count else 0
        for candidate in range(self.count):
            if self.slot[candidate] != exclude:
                most = max(most, self.weight[candidate])
        return most
