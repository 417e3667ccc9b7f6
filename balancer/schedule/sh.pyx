"""sh: source hashing, the same client to the same server.

IPVS's rule (net/netfilter/ipvs/ip_vs_sh.c): a table is filled in list order with as many consecutive entries per
server as its weight, over and over; the client's address, folded to 32 bits and hashed (hash_32: multiplication by
the golden ratio), picks an entry. With the kernel's sh-fallback a server that may not take the query is passed over
by probing onward, here always. The kernel's table has 256 entries whatever the weights; this one grows to hold every
server's share at least once, up to 65,536.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, realloc

from balancer.schedule.base cimport NO_SERVER, Scheduler

cdef enum:
    SMALLEST_BITS = 8               # CONFIG_IP_VS_SH_TAB_BITS
    LARGEST_BITS = 16
    GOLDEN_RATIO_32 = 0x61C88647    # include/linux/hash.h


cdef class SourceHashing(Scheduler):
    cdef int *bucket                # server slots
    cdef int bits

    name = "sh"

    def __dealloc__(self):
        free(self.bucket)

    cdef int _rebuilt(self) except -1:
        cdef int candidate = 0, filled = 0, index
        cdef int64_t total = 0
        for index in range(self.count):
            total += self.weight[index]
        self.bits = SMALLEST_BITS
        while (1 << self.bits) < total and self.bits < LARGEST_BITS:
            self.bits += 1
        cdef int *bucket = <int *>realloc(self.bucket, sizeof(int) << self.bits)
        if bucket == NULL:
            raise MemoryError(f"source hash table of {1 << self.bits} entries")
        self.bucket = bucket
        if self.count == 0:
            return 0
        for index in range(1 << self.bits):
            if filled >= self.weight[candidate]:
                candidate = (candidate + 1) % self.count
                filled = 0
            bucket[index] = self.slot[candidate]
            filled += 1
        return 0

    cdef int pick(self, uint32_t key, int exclude) noexcept nogil:
        cdef uint32_t mask, start, offset
        if self.count == 0:
            return NO_SERVER
        mask = (<uint32_t>1 << self.bits) - 1
        start = <uint32_t>(key * <uint32_t>GOLDEN_RATIO_32) >> (32 - self.bits)
        for offset in range(mask + 1):
            if self.bucket[(start + offset) & mask] != exclude:
                return self.bucket[(start + offset) & mask]
        return NO_SERVER
