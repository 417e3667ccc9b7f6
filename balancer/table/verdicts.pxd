"""C access to the verdicts, for the data path."""

from libc.stdint cimport uint64_t

from balancer.table.layout cimport HealthHeader, HealthServer
from balancer.table.table cimport Region

cdef class Verdicts(Region):
    cdef HealthHeader *header
    cdef HealthServer *entries              # MAX_SERVERS per service
    cdef bint fresh(self, uint64_t now_ns) noexcept nogil
    cdef HealthServer *_entry(self, int service, int slot) except NULL
    cdef int verdict(self, int service, int slot, uint64_t identity, int proto) noexcept nogil
