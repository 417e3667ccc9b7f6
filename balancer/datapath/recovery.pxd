"""When pending queries go out again because a server has returned, and how many at once. Pure: no socket, no clock.

Every function gets `now` (CLOCK_MONOTONIC nanoseconds). While nobody is trusted queries gather: at 5,000 a second
some thousands within a second. A server that returns could not take them in one burst: its socket holds as many as
fit into its buffer (rmem_default of 208 KiB, some 92 queries at 2.3 kB of kernel memory each), it drops the others,
and those that clients ask just now with them. So they go out as answers to them come, so many unanswered at a time:
what a socket holds, and what is on the way to a server that far away when it answers PER_MILLISECOND. Until the first
answer they go out that fast and no faster (pacing, RFC 9002 §7.7). What was lost nevertheless narrows the window to
what a socket holds, from where it grows with each answer, as in slow start (RFC 5681 §3.1); and it goes out in
another round, with what came meanwhile and may be lost.
"""

from libc.stdint cimport uint64_t

from balancer.datapath.retry cimport MILLISECOND

cdef enum:
    PACE = MILLISECOND // 2             # between two times that some go out
    AT_ONCE = 32                        # as many each time
    PER_MILLISECOND = 32                # as many a server is thought to answer
    WINDOW = 80                         # as many its socket holds
    LOST_AFTER = 50 * MILLISECOND       # beyond the round-trip time: those that are unanswered then
    ROUNDS = 6

cdef enum Returned:                     # who is trusted again
    NOBODY = 0
    ONE_OF_MANY = 1                     # others were trusted all the time
    SOMEBODY = 2                        # nobody was

cdef struct Recovery:
    Returned returned                   # since the last `begin`
    Returned to                         # whose return it is that queries go out again
    int rounds                          # left, this one included; 0: no query is to go out
    uint64_t before_ns                  # those received before go out
    uint64_t until_ns                   # those received until then have, in this round
    uint64_t sent_ns                    # when some last did
    int outstanding                     # answers to them that have not come
    int window                          # how many may be
    bint flowing                        # answers to them come
    uint64_t srtt                       # ns, of the server that returned, as it was before; 0: not known

cdef inline int takes(uint64_t srtt) noexcept nogil:
    """How many queries a server takes at once, and loses none of them. srtt: smoothed round-trip time, ns."""
    return WINDOW + PER_MILLISECOND * <int>(srtt // MILLISECOND)

cdef inline void on_return(Recovery *recovery, Returned who, uint64_t srtt) noexcept nogil:
    """A server has answered again; srtt: as it was before it fell silent."""
    recovery.returned = max(recovery.returned, who)
    recovery.srtt = srtt

cdef inline void begin(Recovery *recovery, Returned to, uint64_t before_ns, int rounds) noexcept nogil:
    """Those received before go out, from the oldest on."""
    recovery.to = to
    recovery.window = takes(recovery.srtt)
    recovery.flowing = False
    recovery.before_ns = before_ns
    recovery.until_ns = 0
    recovery.rounds = rounds
    recovery.outstanding = 0

cdef inline int room(Recovery *recovery, uint64_t now) noexcept nogil:
    """How many may go out now; the next round begins when answers to the last ones of this one are due no more."""
    cdef uint64_t patience = LOST_AFTER + recovery.srtt
    cdef bint overdue = now - recovery.sent_ns >= patience
    if recovery.outstanding and overdue:
        recovery.outstanding = 0
        recovery.window = WINDOW
    if recovery.until_ns < recovery.before_ns and recovery.outstanding < recovery.window:
        if now - recovery.sent_ns < <uint64_t>PACE:
            return 0
        return min(<int>AT_ONCE if recovery.flowing else <int>(PER_MILLISECOND * PACE // MILLISECOND),
                   recovery.window - recovery.outstanding)
    if overdue:
        recovery.rounds -= 1
        recovery.sent_ns = now
        recovery.until_ns = 0
        recovery.before_ns = now - patience
    return 0

cdef inline void on_resent(Recovery *recovery, int count, uint64_t now) noexcept nogil:
    """So many went out, up to those received at `until_ns`; none: there were no more."""
    if count == 0:
        recovery.until_ns = recovery.before_ns
        return
    recovery.outstanding += count
    recovery.sent_ns = now

cdef inline void on_recovered(Recovery *recovery, uint64_t received_ns) noexcept nogil:
    """A query that was received then is answered."""
    if recovery.outstanding and received_ns <= recovery.until_ns:
        recovery.outstanding -= 1
        recovery.flowing = True
        recovery.window += recovery.window < takes(recovery.srtt)
