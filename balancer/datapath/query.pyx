"""Queries in flight of one worker: claim and release records, open and close legs, find a leg by (socket, id).

A record is claimed in constant time, lives in shared memory and is published by its `state`, written last; so a
successor that maps the same memory finds every pending query whole (`adopt`). Queries of up to 512 bytes lie in their
record, longer ones in one of a few large blocks while there are any. Legs are found through a hash of
(socket, id) with chains, not an array per socket: bounded memory for any number of servers. Ids are drawn from
getrandom; an id in flight on a socket is never given out again on it (RFC 5452 §9.2).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stddef cimport size_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from balancer.errors import LayoutError

from balancer.datapath.mmsg cimport BUFFER_STRIDE, inbox_bytes
from balancer.datapath.syscalls cimport getrandom
from balancer.table.layout cimport LAYOUT_VERSION, check, store

cdef enum:
    SLOTS_MAGIC = 0x6e733771        # "ns7q"
    STRIDE = (sizeof(Query) + 63) // 64 * 64 | 64   # whole lines, an odd number: records spread over all cache sets
    GHOSTS = 65536
    ID_TRIES = 16

cdef int _live = 0


def live():
    """Records in use in this process; zero when everything has been answered or given up."""
    return _live


cdef size_t _records_size(size_t capacity) noexcept nogil:
    return sizeof(SlotsHeader) + capacity * STRIDE


def check_none_live():
    """Nothing is in flight in this process, or the debug build aborts: said by a worker that ends gracefully."""
    check(_live == 0)


def slots_size(int capacity):
    """Bytes of the slots region for this many queries in flight: records, long queries, the inbox."""
    return _records_size(capacity) + LONG_QUERIES * BUFFER_STRIDE + inbox_bytes(BATCH)


cdef inline uint32_t _hash(uint32_t socket, uint16_t id) noexcept nogil:
    return (socket * 65536U + id) * 0x9E3779B1U ^ socket * 0x85EBCA6BU >> 7


cdef inline uint64_t _ghost(uint32_t socket, uint16_t id) noexcept nogil:
    return <uint64_t>1 << 63 | <uint64_t>socket << 16 | id


cdef class Slots(Region):
    """The in-flight records of one worker, over the memory behind `descriptor`."""

    def __init__(self, int descriptor, bint writable, int services, bint create=False):
        cdef int index
        cdef size_t rest = LONG_QUERIES * BUFFER_STRIDE + inbox_bytes(BATCH)
        self.header = <SlotsHeader *>self.base
        self._own()
        if create:
            self.header.magic = SLOTS_MAGIC
            self.header.version = LAYOUT_VERSION
            self.header.size = self.size
            self.header.stride = STRIDE
        self._verify("slots", <uint64_t *>self.base, SLOTS_MAGIC, self.size)
        if self.header.stride != STRIDE:
            raise LayoutError(f"slots: records of {self.header.stride} bytes, this program has {STRIDE}")
        self.capacity = <int>((self.size - sizeof(SlotsHeader) - rest) // STRIDE)
        if self.size != _records_size(self.capacity) + rest:
            raise LayoutError(f"slots: {self.size} bytes are no whole number of records")
        if self.header.high_water > <uint64_t>self.capacity:
            raise LayoutError("slots: more records in use than there are")
        self.records = self.base + sizeof(SlotsHeader)
        self.long_queries = self.base + _records_size(self.capacity)
        self.inbox = _records_size(self.capacity) + LONG_QUERIES * BUFFER_STRIDE
        self.services = services
        # Short enough to stay in the second-level cache: random ids touch all of it, and chains are short while the
        # usual thousand or so are in flight.
        self.chain_mask = 1024
        while self.chain_mask < <uint32_t>(self.capacity // 4):
            self.chain_mask *= 2
        self.chain = <int *>malloc(self.chain_mask * sizeof(int))
        self.free = <int *>malloc(self.capacity * sizeof(int))
        self.ghosts = <uint64_t *>calloc(GHOSTS, sizeof(uint64_t))
        self.oldest = <int *>malloc(services * sizeof(int))
        self.newest = <int *>malloc(services * sizeof(int))
        if not (self.chain and self.free and self.ghosts and self.oldest and self.newest):
            raise MemoryError(f"indexes over {self.capacity} in-flight records")
        memset(self.chain, 0xff, self.chain_mask * sizeof(int))
        self.chain_mask -= 1
        for index in range(services):
            self.oldest[index] = self.newest[index] = NONE

    def __dealloc__(self):
        global _live
        _live -= self.in_use
        free(self.chain)
        free(self.free)
        free(self.ghosts)
        free(self.oldest)
        free(self.newest)

    def adopt(self):
        """Index what the memory holds: the pending queries of a predecessor, oldest first. Returns their number."""
        global _live
        cdef int number, leg
        cdef Query *query
        cdef bint[LONG_QUERIES] kept
        memset(kept, 0, sizeof(kept))
        pending = []
        for number in range(self.header.high_water):
            query = self.query(number)
            if query.state == QUERY_PENDING and query.service < self.services:
                pending.append((query.received_ns, number))
                if 0 <= query.kept < LONG_QUERIES:
                    kept[query.kept] = True
                else:
                    query.kept = NONE
            else:
                query.state = QUERY_FREE
                self.free[self.free_count] = number
                self.free_count += 1
        for _, number in sorted(pending):
            query = self.query(number)
            query.answered = False
            query.held = NONE
            self._append(number)
            for leg in range(LEGS):
                query.legs[leg].waits = False
                if query.legs[leg].state != LEG_FREE:
                    self._link(number * LEGS + leg)
        for number in range(LONG_QUERIES - 1, -1, -1):
            if not kept[number]:
                self.long_free[self.long_free_count] = number
                self.long_free_count += 1
        self.in_use = len(pending)
        _live += self.in_use
        return self.in_use

    cdef bint keep(self, int number, const uint8_t *bytes, int size) noexcept nogil:
        """Copy a query into its record; False when it is too long and all large blocks are taken: then its first
        KEPT_BYTES are kept, enough to match answers, and it cannot be sent again."""
        cdef Query *query = self.query(number)
        memcpy(query.bytes, bytes, size if size < KEPT_BYTES else KEPT_BYTES)
        if size <= KEPT_BYTES:
            return True
        if self.long_free_count == 0:
            return False
        self.long_free_count -= 1
        query.kept = self.long_free[self.long_free_count]
        memcpy(self.long_queries + <size_t>query.kept * BUFFER_STRIDE, bytes, size)
        return True

    cdef uint8_t *bytes(self, int number) noexcept nogil:
        """The whole query as kept, with the id of its newest leg; NULL when it was not kept whole."""
        cdef Query *query = self.query(number)
        cdef uint8_t *whole
        if query.size <= KEPT_BYTES:
            return query.bytes
        if query.kept == NONE:
            return NULL
        whole = self.long_queries + <size_t>query.kept * BUFFER_STRIDE
        whole[0] = query.bytes[0]
        whole[1] = query.bytes[1]
        return whole

    cdef Query *query(self, int number) noexcept nogil:
        return <Query *>(self.records + <size_t>number * STRIDE)

    cdef Leg *leg(self, int leg) noexcept nogil:
        return &self.query(leg // LEGS).legs[leg % LEGS]

    cdef void _append(self, int number) noexcept nogil:
        cdef Query *query = self.query(number)
        query.newer = NONE
        query.older = self.newest[query.service]
        if query.older == NONE:
            self.oldest[query.service] = number
        else:
            self.query(query.older).newer = number
        self.newest[query.service] = number

    cdef int claim(self, int service, uint64_t now) noexcept nogil:
        """A record for a query received at `now`, or NONE when all are in use. The caller fills it and opens a leg."""
        global _live
        cdef int number
        cdef Query *query
        if self.free_count:
            self.free_count -= 1
            number = self.free[self.free_count]
        elif self.header.high_water < <uint64_t>self.capacity:
            number = <int>self.header.high_water
            store(&self.header.high_water, number + 1)
        else:
            return NONE
        query = self.query(number)
        check(query.state == QUERY_FREE)
        query.received_ns = now
        query.service = service
        query.legs_used = 0
        query.answered = False
        query.kept = query.held = NONE
        query.legs[0].state = query.legs[1].state = LEG_FREE
        self._append(number)
        self.in_use += 1
        _live += 1
        return number

    cdef void release(self, int number) noexcept nogil:
        """Give a record back. Its legs are closed already."""
        global _live
        cdef Query *query = self.query(number)
        check(query.legs[0].state == LEG_FREE and query.legs[1].state == LEG_FREE and query.held == NONE)
        query.state = QUERY_FREE
        if query.kept != NONE:
            self.long_free[self.long_free_count] = query.kept
            self.long_free_count += 1
        if query.older == NONE:
            self.oldest[query.service] = query.newer
        else:
            self.query(query.older).newer = query.newer
        if query.newer == NONE:
            self.newest[query.service] = query.older
        else:
            self.query(query.newer).older = query.older
        self.free[self.free_count] = number
        self.free_count += 1
        self.in_use -= 1
        _live -= 1
        check(self.in_use >= 0)

    cdef uint16_t random16(self) noexcept nogil:
        if self.pool_left == 0:
            # Blocks only before the kernel's generator is seeded, which is long past when a worker runs.
            while getrandom(self.pool, sizeof(self.pool), 0) != sizeof(self.pool):
                pass
            self.pool_left = 2048
        self.pool_left -= 1
        return self.pool[self.pool_left]

    cdef int open_leg(self, int number, int server, uint32_t socket, int fixed_id) noexcept nogil:
        """A leg to `server` over `socket` with a random id (or `fixed_id` if not NONE); NONE when no id is free.

        Publishes the record: from here on a successor would find it.
        """
        cdef Query *query = self.query(number)
        cdef int place
        cdef uint16_t id = 0
        cdef Leg *leg
        if query.legs_used >= LEGS:
            return NONE
        for _ in range(ID_TRIES):
            id = self.random16() if fixed_id == NONE else <uint16_t>fixed_id
            if self.find(socket, id) == NONE:
                break
            if fixed_id != NONE:
                return NONE
        else:
            return NONE
        place = query.legs_used
        leg = &query.legs[place]
        leg.sent_ns = query.received_ns
        leg.socket = socket
        leg.server = server
        leg.id = id
        leg.waits = leg.again = False
        leg.state = LEG_WAITING
        query.legs_used += 1
        query.bytes[0] = id >> 8
        query.bytes[1] = id & 0xff
        self._link(number * LEGS + place)
        query.state = QUERY_PENDING
        return number * LEGS + place

    cdef void _link(self, int leg) noexcept nogil:
        cdef Leg *record = self.leg(leg)
        cdef uint32_t place = _hash(record.socket, record.id) & self.chain_mask
        record.next = self.chain[place]
        self.chain[place] = leg

    cdef void close_leg(self, int leg) noexcept nogil:
        """Take the leg out of the hash; its id may be used again."""
        cdef Leg *record = self.leg(leg)
        cdef int *link = &self.chain[_hash(record.socket, record.id) & self.chain_mask]
        check(record.state != LEG_FREE)
        while link[0] != leg:
            check(link[0] != NONE)
            link = &self.leg(link[0]).next
        link[0] = record.next
        record.state = LEG_FREE

    cdef int find(self, uint32_t socket, uint16_t id) noexcept nogil:
        """The leg in flight on `socket` with `id`, or NONE."""
        cdef int leg = self.chain[_hash(socket, id) & self.chain_mask]
        cdef Leg *record
        while leg != NONE:
            record = self.leg(leg)
            if record.id == id and record.socket == socket:
                return leg
            leg = record.next
        return NONE

    cdef void remember(self, int leg) noexcept nogil:
        """This leg timed out: an answer to it is late, not foreign."""
        cdef Leg *record = self.leg(leg)
        self.ghosts[_hash(record.socket, record.id) % GHOSTS] = _ghost(record.socket, record.id)

    cdef bint was_late(self, uint32_t socket, uint16_t id) noexcept nogil:
        cdef uint64_t *ghost = &self.ghosts[_hash(socket, id) % GHOSTS]
        if ghost[0] != _ghost(socket, id):
            return False
        ghost[0] = 0
        return True

    def time_rounds(self, int rounds, int in_flight):
        """Claim, open, find, close, release `rounds` times with `in_flight` records out. For the micro-benchmark."""
        cdef int index, number, leg
        cdef int *window = <int *>malloc(max(in_flight, 1) * sizeof(int))
        if window == NULL or not 0 < in_flight <= self.capacity:
            free(window)
            raise ValueError(f"in_flight {in_flight}, allowed 1 to {self.capacity}")
        memset(window, 0xff, in_flight * sizeof(int))
        for index in range(rounds + in_flight):
            leg = window[index % in_flight]
            if leg != NONE:
                leg = self.find(self.leg(leg).socket, self.leg(leg).id)
                self.close_leg(leg)
                self.release(leg // LEGS)
                window[index % in_flight] = NONE
            if index < rounds:
                number = self.claim(0, index)
                window[index % in_flight] = self.open_leg(number, 0, index % 32, NONE)
        free(window)
