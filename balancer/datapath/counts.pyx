"""Connections per client: a hash from an IPv4 address or an IPv6 /64 to a number. Pure. Runs in a worker.

Linear probing over a power of two, at most half full; a removal moves the followers up (Knuth 6.4, algorithm R), so
nothing is left behind however often clients come and go. Only clients with a connection have an entry. The hash is
keyed at random, so that nobody can aim many addresses at one place.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from balancer.datapath.syscalls cimport getrandom

cdef enum:
    FIRST_PLACES = 256

cdef uint64_t[2] _secret
getrandom(_secret, sizeof(_secret), 0)


cdef uint32_t _hash(uint32_t family, uint64_t key) noexcept nogil:
    # Two rounds of multiply and fold (wyhash's step) over secret words.
    cdef uint64_t value = (key ^ _secret[0]) * <uint64_t>0x9E3779B97F4A7C15
    value ^= value >> 32
    value = (value ^ _secret[1] ^ family) * <uint64_t>0xD6E8FEB86659FD93
    return <uint32_t>(value >> 32)


cdef class Counts:

    def __dealloc__(self):
        free(self.places)

    cdef bint _grow(self) noexcept nogil:
        cdef Count *old = self.places
        cdef uint32_t size = (self.mask + 1) * 2 if old != NULL else FIRST_PLACES, index
        cdef uint32_t before = self.mask + 1 if old != NULL else 0
        cdef Count *fresh = <Count *>calloc(size, sizeof(Count))
        if fresh == NULL:
            return False
        self.places = fresh
        self.mask = size - 1
        for index in range(before):
            if old[index].number:
                self._find(old[index].family, old[index].key)[0] = old[index]
        free(old)
        return True

    cdef Count *_find(self, uint32_t family, uint64_t key) noexcept nogil:
        """The entry of a client, or the free place where it would be."""
        cdef uint32_t at = _hash(family, key) & self.mask
        while self.places[at].number and not (self.places[at].key == key and self.places[at].family == family):
            at = (at + 1) & self.mask
        return &self.places[at]

    cdef int add(self, uint32_t family, uint64_t key) noexcept nogil:
        """One more; how many there are now, or -1 when there is no memory: then nothing was counted."""
        cdef Count *place
        if (self.places == NULL or self.used * 2 > self.mask) and not self._grow():
            return -1
        place = self._find(family, key)
        if place.number == 0:
            place.family = family
            place.key = key
            self.used += 1
        place.number += 1
        return <int>place.number

    cdef void remove(self, uint32_t family, uint64_t key) noexcept nogil:
        """One less."""
        cdef Count *place = self._find(family, key)
        cdef uint32_t hole, at, home
        if place.number == 0:
            return
        place.number -= 1
        if place.number:
            return
        self.used -= 1
        hole = <uint32_t>(place - self.places)
        at = hole
        while True:
            at = (at + 1) & self.mask
            if self.places[at].number == 0:
                return
            home = _hash(self.places[at].family, self.places[at].key) & self.mask
            # It may move into the hole unless its home lies cyclically behind the hole.
            if ((at - home) & self.mask) >= ((at - hole) & self.mask):
                self.places[hole] = self.places[at]
                self.places[at].number = 0
                hole = at

    # The same verbs for Python: tests.

    def note(self, int family, uint64_t key):
        return self.add(family, key)

    def forget(self, int family, uint64_t key):
        if self.places != NULL:
            self.remove(family, key)

    def __len__(self):
        return self.used
