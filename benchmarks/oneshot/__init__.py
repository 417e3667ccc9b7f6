"""The one-shot client: each query is sent exactly once, at a steady rate; what is not answered in time is lost.

    result = run(Plan(("192.0.2.90", 53), rate=10_000, seconds=10, queries=[…]))

or, in a process and a network namespace of its own, `python -m benchmarks.oneshot`. dnsperf keeps a window of
queries, so it slows down when the balancer does and hides what a client would have lost; this one does not
wait. It must be believed, so it tells where it cannot: `Result.doubt`, `Result.stalls`.

Once a millisecond it wakes, reads what came and sends what is due. A latency is from CLOCK_MONOTONIC just
before the send to the kernel's time of arrival over UDP, to the read over TCP.
"""

from benchmarks.oneshot.client import Schedule, run
from benchmarks.oneshot.plan import Plan
from benchmarks.oneshot.record import Result, Slow

__all__ = ["Plan", "Result", "Schedule", "Slow", "run"]
