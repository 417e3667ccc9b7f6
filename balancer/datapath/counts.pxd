"""How many connections each client has: see counts.pyx."""

from libc.stdint cimport uint32_t, uint64_t

cdef struct Count:
    uint64_t key
    uint32_t number                     # 0: free
    uint32_t family                     # 4 or 6: ::/64 of a v6 address never meets a v4 one

cdef class Counts:
    cdef Count *places
    cdef uint32_t mask
    cdef uint32_t used

    cdef bint _grow(self) noexcept nogil
    cdef Count *_find(self, uint32_t family, uint64_t key) noexcept nogil
    cdef int add(self, uint32_t family, uint64_t key) noexcept nogil
    cdef void remove(self, uint32_t family, uint64_t key) noexcept nogil
