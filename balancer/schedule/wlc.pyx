"""wlc: weighted least-connection, the default.

IPVS's rule (net/netfilter/ipvs/ip_vs_wlc.c): the server with the fewest queries in flight per weight, compared
exactly; weight 0 takes nothing. For DNS over UDP IPVS counts client addresses seen in five minutes;
here a query counts from when it is sent until it is answered or given up. Equals take weighted turns, so that idle
servers share by weight.
"""

from balancer.schedule.base cimport TurnScheduler


cdef class WeightedLeastConnection(TurnScheduler):
    name = "wlc"
    ramps = True
