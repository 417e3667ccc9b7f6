"""The bars: what each figure must reach to count as met. One place, so that a bar is moved knowingly.

The design promises a cost per query below every peer's; dnsdist is the cheapest of them, so below 1.0 of its
cost is the bar and the tables show by how much. Where the design names no number, the bar here is a guard:
it is wide enough for a noisy machine and narrow enough to catch a mistake in the shape of the code.
"""

from __future__ import annotations

CPU_TO_DNSDIST = 1.0
QPS_TO_DNSDIST = 1.0
LOST = 0
# 64 or 256 servers: smaller batches per server, the same work per query.
SCALE_CPU = {64: 1.25, 256: 1.5}
# Percent, the worst server of the service. At saturation least-connection follows the speed of the servers,
# and name servers that share cores with the load are not equally fast: that figure is told and has no bar.
SHARE_ERROR = 1.0
# Bytes. In-flight records are claimed at start, so a query should cost its slot's pages and nothing else.
BYTES_IN_FLIGHT = 2048
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
# `faults`: by the latency of the servers (round trip, ms), the slowest answer (seconds).
NOTICED_SLOWEST = {0.2: 0.05, 20.0: 0.12}  # the server's host tells that it is gone
SILENT_SLOWEST = {0.2: 0.3, 20.0: 0.3}
DELAYED_SLOWEST = {0.2: 0.45, 20.0: 0.45}
LOAD_ON_OTHER = 1.15
AFTER_RETURN = 0.2
# A server that has come back: its share of the queries in the first second, and when its slow start is over.
SHARE_AT_RETURN = 0.25
SHARE_AFTER_SLOW_START = 0.45
# DNS over TCP. haproxy relays bytes and knows no DNS: to frame, match and retry at its cost is the aim (0.85).
TCP_QPS_TO_DNSDIST = 2.0
TCP_SINGLE_TO_DNSDIST = 1.0
TCP_CPU_TO_HAPROXY = 1.2
TCP_TRANSFER_P99 = 5.0
TCP_IDLE_BYTES = 8192
TCP_IDLE_UDP = 1.25                     # unchanged, but for the noise of a shared machine
