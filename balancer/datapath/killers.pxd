"""Queries that may have ended their servers: see killers.pyx."""

from libc.stdint cimport uint8_t, uint64_t

from balancer.datapath.query cimport LEGS, Query

cdef enum:
    KILLERS = 16                        # told between two sweeps, and watched

cdef struct Killer:
    uint64_t watched_ns
    uint64_t sent_ns[LEGS]
    int server[LEGS]                   # slots
    int size                            # of `question`
    uint8_t client[28]                  # sockaddr_in or sockaddr_in6
    uint8_t question[272]               # header and first question

cdef class Killers:
    cdef Killer found[KILLERS]
    cdef Killer watched[KILLERS]
    cdef readonly int count
    cdef readonly int watching

    cdef void note(self, const uint8_t *message, int question_end, const uint8_t *client, int size) noexcept nogil
    cdef void watch(self, const Query *query, uint64_t now) noexcept nogil
    cdef void settle(self, int index, bint proved) noexcept nogil
