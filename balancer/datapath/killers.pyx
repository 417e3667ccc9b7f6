"""Queries that two servers went away over, for the log: what ends a name server should have a name. Runs in a worker.

Over UDP a query that was refused has reached nobody: who dies of one has taken it out of its socket, and it is later
queries that are refused. So one that two servers left unanswered is watched, until one of them answers anything or
both refuse. Over TCP the two connections broke with it unanswered.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from balancer.datapath.query cimport LEGS, Query


cdef bint _write(
        Killer *killer, const uint8_t *message, int question_end, const uint8_t *client, int size) noexcept nogil:
    if question_end <= 0 or question_end > <int>sizeof(killer.question) or size > <int>sizeof(killer.client):
        return False                    # no question that can be told
    killer.size = question_end
    memcpy(killer.question, message, question_end)
    memcpy(killer.client, client, size)
    return True


cdef class Killers:
    """Those of one service. When there are more than fit, the others are not told."""

    cdef void note(self, const uint8_t *message, int question_end, const uint8_t *client, int size) noexcept nogil:
        """Two servers went away over it. client: a sockaddr of so many bytes."""
        if self.count < KILLERS and _write(&self.found[self.count], message, question_end, client, size):
            self.count += 1

    cdef void watch(self, const Query *query, uint64_t now) noexcept nogil:
        """Both its servers left it unanswered."""
        cdef int place
        cdef Killer *killer
        if self.watching == KILLERS:
            return
        killer = &self.watched[self.watching]
        if not _write(killer, query.bytes, query.question_end, query.client, query.client_size):
            return
        killer.watched_ns = now
        for place in range(LEGS):
            killer.server[place] = query.legs[place].server
            killer.sent_ns[place] = query.legs[place].sent_ns
        self.watching += 1

    cdef void settle(self, int index, bint proved) noexcept nogil:
        """A watched one is told, or forgotten; the last one takes its place."""
        if proved and self.count < KILLERS:
            self.found[self.count] = self.watched[index]
            self.count += 1
        self.watching -= 1
        self.watched[index] = self.watched[self.watching]

    def take(self):
        """Pairs (header and question, client's sockaddr) of those found since the last call."""
        cdef int index
        taken = [(<bytes>self.found[index].question[:self.found[index].size], <bytes>self.found[index].client[:28])
                 for index in range(self.count)]
        self.count = 0
        return taken
