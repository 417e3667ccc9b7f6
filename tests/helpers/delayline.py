"""A delay line: Ethernet frames between the ends of wires, each frame some time after it came, in order.

`python -m tests.helpers.delayline` is one small process for all wires of a test; `DelayLine` starts it and
speaks with it. The ends are descriptors that move one frame per read and write (TAP devices), so addresses,
ARP, ICMP errors and their quotes, fragments and TCP pass untouched. The delay in force holds for every frame
on the wire: when it is shortened, those that have waited long enough leave at once, still in order.

The process looks at its inputs when a frame comes; with delays from half a millisecond on only every tenth part
of the shortest delay, at least each half millisecond, which costs that much accuracy and spares half the CPU.
It runs under SCHED_RR where that is allowed: a wire does not wait for a free core.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import select
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parent.parent.parent
FRAME = 65536
NEVER = 1 << 63
MOST_LOOKS = 64  # at the inputs in a row: frames that come without end must not keep others from leaving
LEAST_REST, MOST_REST = 50_000, 500_000  # ns between looks at the inputs; below the least: no rest


@dataclass
class Stats:
    """What became of the frames of one wire, both ways."""

    passed: int = 0
    lost: int = 0  # by the loss asked for
    refused: int = 0  # by a device that was down
    waiting: int = 0
    late: float = 0.0  # seconds, the worst since it was asked before


class Wire:
    """Both directions between two descriptors."""

    def __init__(self, left: int, right: int) -> None:
        # (where frames come in, where they leave, those on the way with the time they came)
        self.ways = ((left, right, deque[tuple[int, bytes]]()), (right, left, deque[tuple[int, bytes]]()))
        self.delay_ns, self.loss = 0, 0.0
        self._set_at = 0
        self.stats = Stats()
        self._late = 0

    def set(self, delay: float, loss: float, now: int) -> None:
        """In force from now on; seconds, and the share of frames to lose."""
        self.delay_ns, self.loss, self._set_at = round(delay * 1e9), loss, now

    def take(self, source: int, now: int) -> None:
        """Read one frame that has come at an end."""
        waiting = self.ways[0][2] if source == self.ways[0][0] else self.ways[1][2]
        try:
            frame = os.read(source, FRAME)
        except BlockingIOError:
            return
        if self.loss and random.random() < self.loss:
            self.stats.lost += 1
        else:
            waiting.append((now, frame))

    def give(self) -> int:
        """Write what has waited long enough; when the next is to leave (ns), NEVER when none waits."""
        next_due = NEVER
        for _, sink, waiting in self.ways:
            while waiting:
                due = waiting[0][0] + self.delay_ns
                late = time.monotonic_ns() - due
                if late < 0:
                    next_due = min(next_due, due)
                    break
                # What leaves because the delay was shortened could not leave before that.
                self._late = max(self._late, min(late, late + due - self._set_at))
                try:
                    os.write(sink, waiting.popleft()[1])
                    self.stats.passed += 1
                except OSError:
                    self.stats.refused += 1
        return next_due

    def report(self) -> Stats:
        self.stats.waiting = sum(len(waiting) for _, _, waiting in self.ways)
        self.stats.late, self._late = self._late / 1e9, 0
        return self.stats


def rest(wires: Mapping[str, Wire]) -> int:
    """Nanoseconds between two looks at the inputs while frames wait; 0: look at each."""
    pause = min(MOST_REST, min(wire.delay_ns for wire in wires.values()) // 10)
    return pause if pause >= LEAST_REST else 0


def serve(wires: Mapping[str, Wire], control: int, answers: int) -> None:
    """Pass frames until `control` ends. A line there: NAME (tell its stats), or NAME DELAY LOSS (set them)."""
    owners = {source: wire for wire in wires.values() for source, _, _ in wire.ways}
    inputs, pause, text = [control, *owners], 0, b""
    while True:
        due = min([wire.give() for wire in wires.values()])
        wait = max(0, due - time.monotonic_ns()) / 1e9 if due != NEVER else None
        if wait and pause:
            time.sleep(min(wait, pause / 1e9))
            wait = 0
        # Each readable end is read once and then looked at anew: a read in vain costs more than a look.
        for _ in range(MOST_LOOKS if pause else 1):
            readable = select.select(inputs, [], [], wait)[0]
            if not readable:
                break
            now, wait = time.monotonic_ns(), 0
            for descriptor in readable:
                if descriptor != control:
                    owners[descriptor].take(descriptor, now)
                    continue
                piece = os.read(control, 4096)
                if not piece:
                    return
                *lines, text = (text + piece).split(b"\n")
                for line in lines:
                    name, *values = line.decode().split()
                    if values:
                        wires[name].set(float(values[0]), float(values[1]), now)
                        pause = rest(wires)
                    os.write(answers, json.dumps(asdict(wires[name].report())).encode() + b"\n")


class DelayLine:
    """The running process; `wires` are name → (descriptor, descriptor), and are closed here once handed over."""

    def __init__(self, wires: Mapping[str, tuple[int, int]]) -> None:
        names = [f"{name}:{left}:{right}" for name, (left, right) in wires.items()]
        ends = [end for wire in wires.values() for end in wire]
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.helpers.delayline", *names],
                pass_fds=ends,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
                start_new_session=True,
            )
        finally:
            for end in ends:
                os.close(end)

    def set(self, name: str, delay: float, loss: float = 0.0) -> None:
        """Seconds one way, and the share of frames to lose; in force when this returns."""
        self._ask(f"{name} {delay:.6f} {loss:.6f}")

    def stats(self, name: str) -> Stats:
        return self._ask(name)

    def _ask(self, line: str) -> Stats:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"the delay line ended with {self.process.wait()}"
        return Stats(**json.loads(answer))

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()  # that is what ends it
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.helpers.delayline", description="Passes frames between descriptors, later."
    )
    parser.add_argument("wires", nargs="+", metavar="NAME:DESCRIPTOR:DESCRIPTOR")
    wires = {}
    for text in parser.parse_args().wires:
        name, left, right = text.split(":")
        wires[name] = Wire(int(left), int(right))
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    serve(wires, sys.stdin.fileno(), sys.stdout.fileno())


if __name__ == "__main__":
    main()
