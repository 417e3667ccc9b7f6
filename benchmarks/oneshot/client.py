"""The loop of the one-shot client: wake each millisecond, read, send; and the calls to make meanwhile."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from benchmarks.oneshot.plan import Pace, Plan
from benchmarks.oneshot.record import Record, Result
from benchmarks.oneshot.tcp import Tcp
from benchmarks.oneshot.udp import Udp

TICK = 1_000_000  # ns

Schedule = Sequence[tuple[float, Callable[[], object]]]


def never() -> bool:
    return False


def run(
    plan: Plan, schedule: Schedule = (), record: Record | None = None, over: Callable[[], bool] = never
) -> Result:
    """Send the plan's queries, wait up to its patience for the last answers, and until the schedule is done.

    `schedule` is (seconds after the start, call) in order, run by a thread of its own: short calls, for a
    long one holds up the client. What a call raises is raised here. A `record` of the caller's can be read meanwhile
    by another thread; no more is sent once `over()`, and the plan is then as long as it was until there.
    """
    record = Record() if record is None else record
    flow = Tcp(plan, record) if plan.tcp else Udp(plan, record)
    collecting = gc.isenabled()
    gc.disable()  # a collection is a stall
    try:
        with ThreadPoolExecutor(1) as actor:
            begin = time.process_time()
            start = int(plan.start * 1e9) if plan.start else time.monotonic_ns()
            acting = actor.submit(_act, schedule, start / 1e9)
            _exchange(plan, Pace(plan, start), flow, record, acting, over)
            acting.result()
            cpu = time.process_time() - begin
        if over():
            plan = replace(plan, seconds=min(plan.seconds, (record.sent[-1] - start) / 1e9) if record.sent else 0.0)
        return record.result(plan, start, flow.counts(), cpu, flow.doubt())
    finally:
        if collecting:
            gc.enable()
        flow.close()


def _exchange(
    plan: Plan, pace: Pace, flow: Udp | Tcp, record: Record, acting: Future[None], over: Callable[[], bool]
) -> None:
    time.sleep(max(0, pace.start - time.monotonic_ns()) / 1e9)
    now, deadline, sending = time.monotonic_ns(), 0, True
    while True:
        before, now = now, time.monotonic_ns()
        record.wake(before, now, TICK)
        flow.receive()
        if sending:
            if count := pace.due(now):
                pace.sent += flow.send(count)
            sending = not (pace.over(now) or over())
            deadline = now + int(plan.patience * 1e9)
        elif acting.done() and (now > deadline or not flow.waiting()):
            break
        time.sleep(max(0, now + TICK - time.monotonic_ns()) / 1e9)
    flow.receive()  # also what would be an answer too many


def _act(schedule: Schedule, start: float) -> None:
    for second, call in schedule:
        time.sleep(max(0.0, start + second - time.monotonic()))
        call()
