"""A door for Python to the pure logic of the data path, retry.pxd and recovery.pxd. For tests only; no part of ns7.

All times are nanoseconds since any beginning but 0, which means never.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memset

cimport balancer.datapath.recovery as _recovery
cimport balancer.datapath.retry as _retry

MILLISECOND = <int>_retry.MILLISECOND
RESCUES = <int>_retry.RESCUES
SUSPECTED_FOR = <int>_retry.SUSPECTED_FOR
LOST_AFTER = <int>_recovery.LOST_AFTER
ROUNDS = <int>_recovery.ROUNDS
AT_ONCE = <int>_recovery.AT_ONCE


def takes(srtt):
    return _recovery.takes(srtt)


cdef class Trust:
    """One server, as one worker trusts it."""
    cdef _retry.Trust trust

    @property
    def suspected(self):
        return self.trust.suspected_since != 0

    @property
    def doubtful(self):
        return self.trust.doubted_until != 0

    @property
    def srtt(self):
        return self.trust.srtt

    def sample(self, rtt):
        _retry.sample(&self.trust, rtt)

    def retry_after(self, fixed=0):
        return _retry.retry_after(&self.trust, fixed)

    def on_sent(self, now):
        _retry.on_sent(&self.trust, now)

    def on_answer(self, now):
        return bool(_retry.on_answer(&self.trust, now))

    def returned(self, now):
        return self.trust.returned == now

    def on_rescue(self, client):
        _retry.on_rescue(&self.trust, client)

    def on_refusal(self, now):
        return bool(_retry.on_refusal(&self.trust, now, 0))

    def judge(self, now, suspend_after):
        return bool(_retry.judge(&self.trust, now, suspend_after))

    def double(self, now):
        """Send it a live query if one is wanted; whether it was."""
        if not _retry.wants_double(&self.trust, now):
            return False
        _retry.on_sent(&self.trust, now)
        self.trust.doubled = now
        return True


cdef class Budget:
    cdef _retry.Budget budget

    def __cinit__(self, share, per_second, now):
        memset(&self.budget, 0, sizeof(_retry.Budget))
        self.budget.share = share
        self.budget.per_second = per_second
        self.budget.filled = now

    def on_query(self):
        _retry.on_query(&self.budget)

    def spend(self, now):
        return bool(_retry.spend(&self.budget, now))


cdef class Recovery:
    """The queries that wait for one server."""
    cdef _recovery.Recovery recovery

    def __cinit__(self, srtt, now):
        """A server with that round-trip time is back; all those received before `now` go out."""
        memset(&self.recovery, 0, sizeof(_recovery.Recovery))
        _recovery.on_return(&self.recovery, _recovery.SOMEBODY, srtt)
        _recovery.begin(&self.recovery, _recovery.SOMEBODY, now, _recovery.ROUNDS)

    @property
    def rounds(self):
        return self.recovery.rounds

    @property
    def outstanding(self):
        return self.recovery.outstanding

    @property
    def window(self):
        return self.recovery.window

    def room(self, now):
        return _recovery.room(&self.recovery, now)

    def due(self, uint64_t received):
        """Whether a query received then is yet to go out in this round."""
        return bool(received > self.recovery.until_ns and received < self.recovery.before_ns)

    def send(self, received, now):
        """The queries received at those times, in order, have gone out."""
        if received:
            self.recovery.until_ns = received[len(received) - 1]     # nothing wraps around here
        _recovery.on_resent(&self.recovery, len(received), now)

    def answer(self, received):
        _recovery.on_recovered(&self.recovery, received)
