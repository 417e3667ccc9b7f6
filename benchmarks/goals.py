"""The bars: what each figure must reach to count as met. One place, so that a bar is moved knowingly.

A bar is the least that is promised, side by side with the peer in one run, as a median; an aim is what to work for.
"""

from __future__ import annotations

from typing import NamedTuple


class Bar(NamedTuple):
    bar: float
    aim: float | None = None


# CPU per query and qps to dnsdist's: at saturation with one worker and 16 sockets per server; paced, by rate.
CPU_TO_DNSDIST = Bar(0.60, 0.50)
QPS_TO_DNSDIST = Bar(1.4, 1.8)
PACED_CPU_TO_DNSDIST = {20_000: Bar(0.85, 0.6)}
# A closed loop of 20 clients with 1000 queries outstanding, 20 s.
LOST = 0
# Cost per query with so many servers to that with 2; a pick by the scheduler alone, in nanoseconds.
SCALE_CPU = {64: Bar(1.4, 1.2), 256: Bar(1.8, 1.5)}
PICK_NS = {64: Bar(100, 50), 256: Bar(400, 200)}
# Second servers and suspicion while nothing fails, to both switched off.
REST_CPU = 1.05
# Percent, the worst server of the service: two equal ones and three of weights 1:2:3, one query at a time and at
# 100 qps; at saturation, where least connection follows the speed of the servers, so they must be equally fast; wrr.
SHARE_ERROR = 1.0
SHARE_ERROR_WEIGHTED = 2.0
SHARE_ERROR_SATURATED = 5.0
SHARE_ERROR_WRR = 1.0
# Bytes: an idle worker, a query in flight, and what a second flood of 65,000 may add to the first.
IDLE_RSS = 30 << 20
BYTES_IN_FLIGHT = 1024
GROWTH_SECOND_ROUND = 1 << 20
# `workers`: what may happen to the processes of ns7 without a client noticing more than this (seconds).
KILLED_SLOWEST = 0.3
STOPPED_SLOWEST = 1.5
KILLS = 20
RELOADS = 20
CHILD_KILLS = 100
# Children of a dead supervisor must be gone in this time; a restart takes as long as a start does.
ORPHANS_GONE = 1.0
RESTART_TO_START = 1.5
# Forwarding while other processes die, to forwarding in peace.
CPU_TO_PEACE = 1.05
# One recvmmsg of the data path: least connection is exact to one batch.
IN_FLIGHT_APART = 64
# `sync`: seconds from `ns7 refresh` until the other server serves it: one of 200 zones, with NOTIFY; without, beyond
# the poll; one of 2,000 zones of 500 records.
SYNC_NOTIFY = Bar(1.0)
SYNC_POLL_MORE = 1.0
SYNC_MANY = Bar(3.0)
# `faults`: by the latency of the servers (round trip, ms), the slowest answer (seconds).
NOTICED_SLOWEST = {0.2: 0.05, 20.0: 0.12}  # the server's host tells that it is gone
SILENT_SLOWEST = {0.2: 0.3, 20.0: 0.3}
DELAYED_SLOWEST = {0.2: 0.45, 20.0: 0.45}
UPGRADED_SLOWEST = {0.2: 0.3, 20.0: 0.3}
RESTARTED_SLOWEST = {0.2: 2.0, 20.0: 2.0}
LOAD_ON_OTHER = 1.15
SERVERS_KILLED = 2                      # by one query
AFTER_RETURN = 0.2
# A server that has come back: its share of the queries in the first second, and when its slow start is over.
SHARE_AT_RETURN = 0.25
SHARE_AFTER_SLOW_START = 0.45
# `failover`: what the address may be silent beyond Active_Down_Interval, and until the spare's first advert (seconds).
AFTER_DOWN_MEDIAN, AFTER_DOWN_WORST, SPARE_ADVERT = 0.1, 0.3, 0.3
# One holder after a stall or a split; how much later than `arp_refresh` caches may be right again.
ONE_HOLDER, REFRESH_LATE = 0.5, 0.3
# DNS over TCP. haproxy relays bytes and knows no DNS: to frame, match and retry at its cost is the aim (0.85).
TCP_QPS_TO_DNSDIST = 2.0
TCP_SINGLE_TO_DNSDIST = 1.0
TCP_CPU_TO_HAPROXY = 1.2
TCP_TRANSFER_P99 = 5.0
TCP_IDLE_BYTES = 8192
TCP_IDLE_UDP = 1.25                     # unchanged, but for the noise of a shared machine
# Health: seconds from a fault until the status tells it, at defaults; with traffic, until a killed server is down.
HEALTH_FOUND = 3.2
HEALTH_FOUND_LOADED = 0.05
HEALTH_CORE_PERCENT = 25.0
HEALTH_MONITOR_TO_MON = 0.2
# `./dev drill`: seconds until a dead server is noticed, the other director answers, both servers serve what was edited.
DRILL_NOTICED, DRILL_TAKEN, DRILL_SERVED = 3.0, 1.4, 1.0
# `admin`: what may be looked at, and how fast: milliseconds, by the number of servers; percent of a core with 50 pages
# open; the page in kB, packed; an honest client's wait while others are hostile.
ADMIN_METRICS_MS = {2: 5.0, 256: 200.0}
ADMIN_DELAY_MS = 50.0
ADMIN_CORE_PERCENT = 10.0
ADMIN_FIRST_MS = 300.0
ADMIN_PAGE_KB = 120.0
ADMIN_HONEST_MS = 1000.0
ADMIN_GROWTH_MB = 64.0
ADMIN_STATUS_MS = 150.0
