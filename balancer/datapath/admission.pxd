"""Who may ask what: see admission.pyx."""

from libc.stdint cimport uint8_t, uint64_t

cdef enum Verdict:
    ADMITTED
    DROPPED                             # who may not even query gets no answer at all
    REFUSED                             # who may query, but not transfer, update or notify, is told so

cdef struct Range:                      # of 128-bit addresses, ends included, high and low words
    uint64_t first[2]
    uint64_t last[2]

cdef class Prefixes:
    cdef Range *ranges
    cdef int count
    cdef bint everybody

    cdef bint contain(self, uint64_t high, uint64_t low) noexcept nogil

cdef class Admission:
    cdef Prefixes query
    cdef Prefixes transfer
    cdef Prefixes update
    cdef Prefixes notify

    cdef Verdict judge(self, const uint8_t *message, int question_end, const uint8_t *client) noexcept nogil
