"""When a query is sent again, and which server is not trusted for now. Pure: no socket, no clock.

Every function gets `now` (CLOCK_MONOTONIC nanoseconds). `Trust` is what one worker knows of one server by its own
traffic; `Budget` is how many more queries may be sent than were asked.

Theory. A server that dies is noticed in one of two ways. *Refusal*: its host says so (ICMP port unreachable). One
refusal only makes it doubtful, for it might be a restart or a lie: it is chosen by nobody for one `retry_after`,
while a live query is doubled to it as a probe. A second refusal, or a probe without an answer, and it is suspected.
*Silence*: queries that others answered had gone to it first, RESCUES of them from more than one client, and it gave
no answer of any kind for `suspend_after`. A query that nobody answers proves nothing about anyone.

    trusted ── refusal ──▶ doubtful ── refusal, probe unanswered ──▶ suspected
       ▲  ╲──── rescues and silence ───────────────────────────────────▶ │
       ╰────────────────── any valid answer ─────────────────────────────╯

A suspected server gets a trickle of live queries, each doubled to a trusted one; its first answer lifts the suspicion.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t

cdef enum:
    MILLISECOND = 1_000_000
    RESCUES = 8                         # queries that others answered in its place
    LEAST_AFTER = 30 * MILLISECOND      # bounds of the automatic retry_after
    MOST_AFTER = 250 * MILLISECOND
    TRICKLE = 100 * MILLISECOND         # between two queries that are doubled to a suspected server
    SILENCE = 200 * MILLISECOND         # after so long an answer is a return
    SUSPECTED_FOR = 1000 * MILLISECOND  # a suspicion ends by itself unless it is renewed
    RETRIES_PER_SECOND = 100            # whatever the traffic
    RCODE_PERCENT = 2                   # of the queries, and so many a second, may be sent twice for their answers
    RCODES_PER_SECOND = 10

cdef struct Trust:
    uint64_t srtt                       # smoothed round-trip time and its variation, ns (RFC 6298 §2); 0: no sample
    uint64_t rttvar
    uint64_t silent_since               # when the first query after its last answer was sent; 0: nothing is owed
    uint64_t doubted_until              # 0: not doubtful
    uint64_t suspected_since            # 0: not suspected
    uint64_t doubled                    # when it was last asked though it was not trusted
    uint64_t lifted                     # when it was last trusted again; 0: never
    uint64_t returned                   # when it last answered after a silence; 0: never
    int32_t rescued                     # queries sent here first that another answered, since its last answer
    int32_t refusals                    # since its last answer
    uint32_t first_client
    bint many_clients                   # the rescued ones came from more than one

cdef struct Budget:
    double tokens
    double share                        # tokens per query asked
    double per_second
    uint64_t filled

cdef inline void sample(Trust *trust, uint64_t rtt) noexcept nogil:
    """A round-trip time of a query that was sent once (RFC 6298 §2.2, §2.3, §3)."""
    cdef uint64_t off
    if trust.srtt == 0:
        trust.srtt = rtt
        trust.rttvar = rtt // 2
        return
    off = trust.srtt - rtt if trust.srtt > rtt else rtt - trust.srtt
    trust.rttvar += (off >> 2) - (trust.rttvar >> 2)
    trust.srtt += (rtt >> 3) - (trust.srtt >> 3)

cdef inline uint64_t retry_after(const Trust *trust, uint64_t fixed) noexcept nogil:
    """How long an answer of this server is waited for before another one is asked too. fixed: the setting, 0 = auto."""
    cdef uint64_t after
    if fixed:
        return fixed
    if trust.srtt == 0:
        return MOST_AFTER
    after = trust.srtt + 4 * trust.rttvar
    return LEAST_AFTER if after < LEAST_AFTER else MOST_AFTER if after > MOST_AFTER else after

cdef inline void on_sent(Trust *trust, uint64_t now) noexcept nogil:
    if trust.silent_since == 0:
        trust.silent_since = now
    if trust.suspected_since:
        trust.doubled = now             # nobody is trusted, so it is asked all the same

cdef inline bint on_answer(Trust *trust, uint64_t now) noexcept nogil:
    """Any valid answer; True when the server is trusted again by it.

    A suspicion that nobody renewed may have ended before, so an answer after a long silence is a return as well:
    what had been sent there before may be lost.
    """
    cdef bint lifted = trust.suspected_since != 0 or trust.doubted_until != 0
    if lifted or (trust.silent_since and now - trust.silent_since >= <uint64_t>SILENCE):
        trust.returned = now
    trust.silent_since = trust.doubted_until = trust.suspected_since = 0
    trust.rescued = trust.refusals = 0
    trust.many_clients = False
    if lifted:
        trust.lifted = now
    return lifted

cdef inline void on_rescue(Trust *trust, uint32_t client) noexcept nogil:
    """Another server answered a query that went here first."""
    if trust.rescued == 0:
        trust.first_client = client
    elif trust.first_client != client:
        trust.many_clients = True
    trust.rescued += 1

cdef inline bint on_refusal(Trust *trust, uint64_t now, uint64_t fixed) noexcept nogil:
    """A proven refusal; True when the server's state changed."""
    cdef bint changed = trust.suspected_since == 0
    trust.refusals += 1
    if trust.refusals >= 2:
        trust.doubted_until = 0
        if trust.suspected_since == 0:
            trust.suspected_since = now
        return changed
    if trust.suspected_since or trust.doubted_until:
        return False
    trust.doubted_until = now + retry_after(trust, fixed)
    trust.doubled = 0
    return True

cdef inline bint is_silent(const Trust *trust, uint64_t now, uint64_t suspend_after) noexcept nogil:
    """Whether it gave no answer of any kind for long, while others answered what it had been asked."""
    return (trust.rescued >= RESCUES and trust.many_clients and trust.silent_since != 0
            and now - trust.silent_since >= suspend_after)

cdef inline bint judge(Trust *trust, uint64_t now, uint64_t suspend_after) noexcept nogil:
    """What time brings; True when the server's state changed."""
    if trust.doubted_until and now >= trust.doubted_until:
        trust.doubted_until = 0
        if trust.doubled:               # the probe is unanswered
            trust.suspected_since = now
        return True
    if trust.suspected_since == 0 and is_silent(trust, now, suspend_after):
        trust.suspected_since = now
        return True
    if trust.suspected_since and now - trust.suspected_since >= <uint64_t>SUSPECTED_FOR and (
            now - trust.doubled >= <uint64_t>SUSPECTED_FOR):
        # Nothing was asked, so nothing is known any more: the next queries will tell.
        trust.suspected_since = 0
        trust.silent_since = 0
        trust.rescued = trust.refusals = 0
        trust.many_clients = False
        trust.lifted = now
        return True
    return False

cdef inline bint wants_double(const Trust *trust, uint64_t now) noexcept nogil:
    """Whether a live query should be sent to this server too, to hear whether it answers."""
    if trust.doubted_until:
        return trust.doubled == 0
    return trust.suspected_since != 0 and now - trust.doubled >= <uint64_t>TRICKLE

cdef inline void on_query(Budget *budget) noexcept nogil:
    budget.tokens += budget.share

cdef inline bint spend(Budget *budget, uint64_t now) noexcept nogil:
    """Take a token if there is one. A second's worth may gather, so a burst cannot become a storm."""
    cdef double most = budget.per_second * (1 + 100 * budget.share)
    budget.tokens += (now - budget.filled) * budget.per_second / 1e9
    budget.filled = now
    if budget.tokens > most:
        budget.tokens = most
    if budget.tokens < 1:
        return False
    budget.tokens -= 1
    return True
