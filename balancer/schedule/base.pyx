"""Schedulers: pure choice, no socket, no clock, no table. Runs in every worker, once per query.

`Scheduler` keeps the candidates and their load. `TurnScheduler` adds what wlc and lc share: the least loaded
candidate, and weighted turns among equals.

Weighted turns are stride scheduling (Waldspurger & Weihl, MIT/LCS/TM-528, 1995): each server has the virtual time
at which its next turn is due; the earliest due of the equals is taken and its next turn comes STRIDE/weight later.
A server that could not be chosen for a while comes back at the present virtual time (start-time fair queueing, Goyal
et al., SIGCOMM 1996), so it catches up by at most one turn and is not flooded. The order is that of smooth weighted
round robin, but a pick writes one number where that rule writes one per candidate.
"""

from cython cimport final
from libc.stdint cimport int64_t, uint32_t, uint64_t

from balancer.table.layout cimport MAX_SERVERS

cdef enum:
    STRIDE = 0x100000000
    HEAVIEST = 65535 * 64               # a slow start counts weights in 64ths

cdef uint64_t REBASE_AT = <uint64_t>1 << 55     # of virtual time: a turn must fit beside a candidate in 64 bits


cdef class Scheduler:
    """Base of all schedulers; `pick` chooses nothing until a sub-class says how."""

    name = ""
    ramps = False                   # whether a weight that grows step by step means anything

    def __cinit__(self):
        cdef int slot
        for slot in range(MAX_SERVERS):
            self.place[slot] = NO_SERVER

    def rebuild(self, servers):
        """Take a new list of usable servers: pairs (slot, weight), in slot order, weights 1..HEAVIEST.

        What is in flight stays counted, also on slots that may not be chosen any more.
        """
        cdef int slot, candidate
        for slot in range(MAX_SERVERS):
            self.place[slot] = NO_SERVER
        self.count = 0
        for slot, weight in servers:
            if not (0 <= slot < MAX_SERVERS and 0 < weight <= HEAVIEST and self.place[slot] == NO_SERVER):
                raise ValueError(f"server slot {slot}, weight {weight}")
            candidate = self.count
            self.slot[candidate] = slot
            self.place[slot] = candidate
            self.weight[candidate] = weight
            self.load[candidate] = self.own[slot] + self.others[slot]
            self.count += 1
        self._rebuilt()

    cdef int _rebuilt(self) except -1:
        return 0

    def succeed(self, Scheduler other):
        """Take over what another scheduler counts as in flight; `rebuild` follows."""
        cdef int slot
        for slot in range(MAX_SERVERS):
            self.own[slot] = other.own[slot]
            self.others[slot] = other.others[slot]

    cdef int pick(self, uint32_t key, int exclude) noexcept nogil:
        """The server slot for the next query, or NO_SERVER. `key` is the client, `exclude` a slot not to take."""
        return NO_SERVER

    cdef void claim(self, int slot) noexcept nogil:
        """A query of this worker went to `slot`."""
        self._add(slot, 1)

    cdef void release(self, int slot) noexcept nogil:
        """It came back, or will not any more."""
        self._add(slot, -1)

    @final
    cdef inline void _add(self, int slot, int queries) noexcept nogil:
        self.own[slot] += queries
        if self.place[slot] != NO_SERVER:
            self.load[self.place[slot]] += queries

    cdef void observe(self, int slot, int64_t others) noexcept nogil:
        """The other workers have `others` queries in flight to `slot`."""
        if self.place[slot] != NO_SERVER:
            self.load[self.place[slot]] += others - self.others[slot]
        self.others[slot] = others

    # The same verbs for Python: tests and benchmarks. The data path calls the C methods.

    def choose(self, uint32_t key=0, int exclude=NO_SERVER):
        """`pick` for Python: the slot, or None."""
        slot = self.pick(key, exclude)
        return None if slot == NO_SERVER else slot

    def note_claim(self, int slot):
        self.claim(slot)

    def note_release(self, int slot):
        self.release(slot)

    def note_others(self, int slot, int64_t others):
        self.observe(slot, others)

    def time_picks(self, int rounds, int in_flight):
        """Pick `rounds` times with at most `in_flight` queries out, answered in order. For the micro-benchmark."""
        cdef int[4096] window
        cdef int index, slot
        if not 0 <= in_flight <= 4096:
            raise ValueError(f"in_flight {in_flight}, allowed 0 to 4096")
        for index in range(4096):
            window[index] = NO_SERVER
        for index in range(rounds):
            slot = self.pick(index * 2654435761U, NO_SERVER)
            if in_flight and slot != NO_SERVER:
                if window[index % in_flight] != NO_SERVER:
                    self.release(window[index % in_flight])
                self.claim(slot)
                window[index % in_flight] = slot
        for index in range(in_flight):
            if window[index] != NO_SERVER:
                self.release(window[index])


cdef extern from *:
    """
    /* All ones if the first pair is less, else 0. Who wins a match cannot be foretold, so there must be no branch: one
       comparison of 128 bits, and an empty instruction behind which the compiler does not know the result as a bit. */
    static inline uint64_t ns7_less(uint64_t key, uint64_t due, uint64_t other_key, uint64_t other_due) {
        unsigned __int128 one = (unsigned __int128)key << 64 | due;
        unsigned __int128 other = (unsigned __int128)other_key << 64 | other_due;
        uint64_t mask = -(uint64_t)(one < other);
        __asm__("" : "+r"(mask));
        return mask;
    }

    /* The order of load/weight as that of unsigned numbers, exact: two different quotients p/q and r/s differ by
       |ps - qr|/qr, so by more than 2^-51 of their size while loads stay below 2^29 and weights below 2^22; a double
       errs by at most 2^-53 of it. The bits of doubles that are not negative are ordered as the doubles are. */
    static inline uint64_t ns7_quotient(int64_t load, int64_t weight) {
        double value = (double)load / (double)weight;
        uint64_t bits;
        __builtin_memcpy(&bits, &value, sizeof(bits));
        return bits;
    }
    """
    uint64_t quotient "ns7_quotient"(int64_t load, int64_t weight) noexcept nogil
    uint64_t less "ns7_less"(uint64_t key, uint64_t due, uint64_t other_key, uint64_t other_due) noexcept nogil


cdef class TurnScheduler(Scheduler):
    """The least loaded candidate per weight; equals take turns by weight, and of equals in that the first in the list.

    Candidates are the leaves of a tournament tree, so a change costs one comparison per level and a pick none. A query
    changes its server twice in a row (its turn, its load); the tree is told once, before another candidate changes.
    """

    def __cinit__(self):
        self.leaves = 1
        self.pending = NO_SERVER

    cdef int _rebuilt(self) except -1:
        cdef int candidate
        self.leaves = 1
        while self.leaves < self.count:
            self.leaves *= 2
        for candidate in range(self.count):
            self.stride[candidate] = <uint64_t>STRIDE / <uint64_t>self.weight[candidate]
        self.stale = True
        return 0

    cdef void claim(self, int slot) noexcept nogil:
        self._add(slot, 1)
        self._touch(slot)

    cdef void release(self, int slot) noexcept nogil:
        self._add(slot, -1)
        self._touch(slot)

    cdef void observe(self, int slot, int64_t others) noexcept nogil:
        if others != self.others[slot]:
            Scheduler.observe(self, slot, others)
            self.stale = True

    cdef int pick(self, uint32_t key, int exclude) noexcept nogil:
        cdef int candidate, slot
        if self.count == 0:
            return NO_SERVER
        if self.stale or self.pending != NO_SERVER:
            self._settle()
        candidate = <int>(self.due[1] % MAX_SERVERS)
        if self.slot[candidate] == exclude:
            candidate = self._without(exclude)
            if candidate == NO_SERVER:
                return NO_SERVER
        slot = self.slot[candidate]
        self.now = max(self.now, self.turn[slot])
        self.turn[slot] = self.now + self.stride[candidate]
        self._touch(slot)
        if self.now >= REBASE_AT:
            self._rebase()
        return slot

    @final
    cdef void _touch(self, int slot) noexcept nogil:
        """The turn or the load of a server has changed."""
        cdef int candidate = self.place[slot]
        if candidate != self.pending and candidate != NO_SERVER:
            self._settle()
            self.pending = candidate

    @final
    cdef void _settle(self) noexcept nogil:
        """Tell the tree what it does not know."""
        cdef int index, best
        if self.stale:
            for index in range(self.leaves):
                self._enter(index)
            for index in range(self.leaves - 1, 0, -1):
                best = 2 * index + <int>(less(self.key[2 * index + 1], self.due[2 * index + 1],
                                              self.key[2 * index], self.due[2 * index]) & 1)
                self.key[index] = self.key[best]
                self.due[index] = self.due[best]
            self.stale = False
        elif self.pending != NO_SERVER:
            self._climb(self.pending)
        self.pending = NO_SERVER

    @final
    cdef inline void _enter(self, int candidate) noexcept nogil:
        cdef int leaf = self.leaves + candidate
        if candidate >= self.count:
            self.key[leaf] = self.due[leaf] = <uint64_t>-1
            return
        self.key[leaf] = quotient(self.load[candidate], self.weight[candidate])
        self.due[leaf] = self.turn[self.slot[candidate]] * MAX_SERVERS + <uint64_t>candidate

    @final
    cdef void _climb(self, int candidate) noexcept nogil:
        """Play the matches between a leaf and the root again."""
        cdef int at = self.leaves + candidate
        cdef uint64_t key, due, other_key, other_due, lost  # lost: all ones if the other one goes on, else 0
        self._enter(candidate)
        key = self.key[at]
        due = self.due[at]
        while at > 1:
            other_key = self.key[at ^ 1]
            other_due = self.due[at ^ 1]
            lost = less(other_key, other_due, key, due)
            key ^= (key ^ other_key) & lost
            due ^= (due ^ other_due) & lost
            at >>= 1
            self.key[at] = key
            self.due[at] = due

    @final
    cdef int _without(self, int exclude) noexcept nogil:
        """The best candidate but `exclude`: asked for when a query needs a second server, so seldom."""
        cdef int leaf, best = NO_SERVER
        for leaf in range(self.leaves, self.leaves + self.count):
            if self.slot[leaf - self.leaves] != exclude and (
                    best == NO_SERVER or less(self.key[leaf], self.due[leaf], self.key[best], self.due[best])):
                best = leaf
        return NO_SERVER if best == NO_SERVER else best - self.leaves

    @final
    cdef void _rebase(self) noexcept nogil:
        """Move virtual time back before it overflows. Servers that took no turn for millions of picks become alike."""
        cdef int slot
        for slot in range(MAX_SERVERS):
            self.turn[slot] -= min(self.turn[slot], REBASE_AT // 2)
        self.now -= REBASE_AT // 2
        self.stale = True
