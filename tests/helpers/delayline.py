"""A delay line: Ethernet frames between the ends of wires, each frame some time after it came, in order.

`python -m tests.helpers.delayline` is one small process for all wires of a test; `DelayLine` starts it and
speaks with it. The ends are descriptors that move one frame per read and write (TAP devices), so addresses,
ARP, ICMP errors and their quotes, fragments and TCP pass untouched. The delay in force holds for every frame
on the wire: when it is shortened, those that have waited long enough leave at once, still in order.

The process looks at its inputs when a frame comes, and while frames wait each tenth part of the shortest delay, but
not more often than each 50 us, if that is no more than half of it, nor less often than each half millisecond. That
costs so much accuracy; but a look at each frame takes a core from those that are measured. It runs under SCHED_RR
where that is allowed: a wire does not wait for a free core. What every frame meets is compiled (carry.pyx).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from tests.helpers.carry import Wire, carry

ROOT = Path(__file__).resolve().parent.parent.parent
LEAST_REST, MOST_REST = 50_000, 500_000  # ns between looks at the inputs


@dataclass
class Stats:
    """What became of the frames of one wire, both ways."""

    passed: int = 0
    lost: int = 0  # by the loss asked for
    refused: int = 0  # by a device that was down
    waiting: int = 0
    late: float = 0.0  # seconds, the worst since it was asked before


def rest(wires: Mapping[str, Wire]) -> int:
    """Nanoseconds between two looks at the inputs while frames wait."""
    shortest = min(wire.delay_ns for wire in wires.values())
    return int(min(MOST_REST, max(LEAST_REST, shortest // 10), shortest // 2))


def stats(wire: Wire) -> Stats:
    return Stats(wire.passed, wire.lost, wire.refused, wire.waiting, wire.lateness())


def serve(wires: Mapping[str, Wire], control: int, answers: int) -> None:
    """Pass frames until `control` ends. A line there: NAME (tell its stats), or NAME DELAY LOSS (set them)."""
    pause, text = 0, b""
    while True:
        carry(list(wires.values()), control, pause)
        piece = os.read(control, 4096)
        if not piece:
            return
        *lines, text = (text + piece).split(b"\n")
        for line in lines:
            name, *values = line.decode().split()
            if values:
                wires[name].set(float(values[0]), float(values[1]))
                pause = rest(wires)
            os.write(answers, json.dumps(asdict(stats(wires[name]))).encode() + b"\n")


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
