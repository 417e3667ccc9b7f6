"""Schedulers: pure choice, no socket, no clock, no table. Runs in every worker, once per query.

`Scheduler` keeps the candidates and their load. `TurnScheduler` adds what wlc and lc share: the least loaded
candidate, and weighted turns among equals.

Weighted turns are stride scheduling (Waldspurger & Weihl, MIT/LCS/TM-528, 1995): each server has the virtual time
at which its next turn is due; the earliest due of the equals is taken and its next turn comes STRIDE/weight later.
A server that could not be chosen for a while comes back at the present virtual time (start-time fair queueing, Goyal
et al., SIGCOMM 1996), so it catches up by at most one turn and is not flooded. The order is that of smooth weighted
round robin, but a pick writes one number where that rule writes one per candidate.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from balancer.table.layout cimport MAX_SERVERS

cdef enum:
    STRIDE = 0x100000000
    HEAVIEST = 65535 * 64               # a slow start counts weights in 64ths


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
        self.own[slot] += 1
        if self.place[slot] != NO_SERVER:
            self.load[self.place[slot]] += 1

    cdef void release(self, int slot) noexcept nogil:
        """It came back, or will not any more."""
        self.own[slot] -= 1
        if self.place[slot] != NO_SERVER:
            self.load[self.place[slot]] -= 1

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


cdef class TurnScheduler(Scheduler):
    """The least loaded candidate; equals take turns by weight."""

    cdef int least(self, int exclude, bint weighted) noexcept nogil:
        # load/weight is compared by cross-multiplication, as IPVS does: exact, and no division per candidate.
        cdef int candidate, slot, best = NO_SERVER, best_slot = NO_SERVER
        cdef int64_t best_load = 0, best_weight = 1, weight, left, right
        cdef uint64_t best_turn = 0
        for candidate in range(self.count):
            slot = self.slot[candidate]
            if slot == exclude:
                continue
            weight = self.weight[candidate] if weighted else 1
            left = self.load[candidate] * best_weight
            right = best_load * weight
            # Turns wrap around after 2^64, so their difference decides, not their size.
            if best == NO_SERVER or left < right or (left == right and <int64_t>(self.turn[slot] - best_turn) < 0):
                best = candidate
                best_slot = slot
                best_load = self.load[candidate]
                best_weight = weight
                best_turn = self.turn[slot]
        if best == NO_SERVER:
            return NO_SERVER
        if <int64_t>(best_turn - self.now) > 0:
            self.now = best_turn
        self.turn[best_slot] = self.now + <uint64_t>STRIDE / <uint64_t>best_weight
        return best_slot
