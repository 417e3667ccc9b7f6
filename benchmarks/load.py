"""Load and latency: dnsperf's command and report, and a light prober that measures what one client sees.

dnsperf prints no percentiles (2.10 only with -v, a line per query, which costs more than the query). So a
prober of our own sends one query at a time, up to `rate` per second, through the same listener while dnsperf
loads it; p50 and p99 are over its answers, CLOCK_MONOTONIC before send and after recv. It waits for each
answer, so at saturation it asks less often than `rate`: its figure is what one more client would see, and it
carries its own wake-up time, the same for every peer.
"""

from __future__ import annotations

import random
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.lab import Address, LabError

Question = tuple[str, str]
TYPES = {"A": 1, "TXT": 16, "AAAA": 28, "AXFR": 252}
PROBE_TIMEOUT = 2.0


def query(question: Question, ident: int) -> bytes:
    """A plain DNS query, one question, no EDNS."""
    name, kind = question
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    header = ident.to_bytes(2, "big") + b"\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00"
    return header + labels + b"\x00" + TYPES[kind].to_bytes(2, "big") + b"\x00\x01"


def answers(asked: bytes, answer: bytes) -> bool:
    """Whether answer is a NOERROR response to exactly that query."""
    return (
        len(answer) >= len(asked)
        and answer[:2] == asked[:2]
        and answer[2] & 0x80 != 0
        and answer[3] & 0x0F == 0
        and answer[12 : len(asked)] == asked[12:]
    )


def ask(sock: socket.socket, question: Question, timeout: float) -> float | None:
    """Ask over a connected socket; seconds until the true answer, None when there was none in time."""
    asked = query(question, random.getrandbits(16))
    start = time.monotonic_ns()
    deadline = start + int(timeout * 1e9)
    try:
        sock.send(asked)
        while (left := deadline - time.monotonic_ns()) > 0:
            sock.settimeout(left / 1e9)
            answer = sock.recv(65535)
            end = time.monotonic_ns()
            if answers(asked, answer):
                return (end - start) / 1e9
    except (TimeoutError, ConnectionRefusedError):
        pass
    return None


def connected(address: Address) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(address)
    return sock


def wait_answer(address: Address, question: Question, deadline: float, alive: Callable[[], bool]) -> bool:
    """Ask until it answers; False when the deadline passes or the process ends."""
    while time.monotonic() < deadline and alive():
        with connected(address) as sock:
            if ask(sock, question, 0.25) is not None:
                return True
        time.sleep(0.05)
    return False


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile, None for no values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass
class Prober:
    """A thread that asks one question at a time; use as a context manager."""

    address: Address
    question: Question
    rate: float = 200.0
    latencies: list[float] = field(default_factory=list)
    lost: int = 0

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prober", daemon=True)

    def _run(self) -> None:
        due = time.monotonic()
        with connected(self.address) as sock:
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                due = max(due + 1 / self.rate, time.monotonic())
                latency = ask(sock, self.question, PROBE_TIMEOUT)
                if latency is None:
                    self.lost += 1
                else:
                    self.latencies.append(latency)

    def __enter__(self) -> Prober:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(PROBE_TIMEOUT + 1)


@dataclass(frozen=True)
class Load:
    """What dnsperf reported (latencies in seconds)."""

    sent: int
    completed: int
    lost: int
    qps: float
    run_time: float
    latency_avg: float
    latency_min: float
    latency_max: float
    rcodes: dict[str, int]


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text, re.MULTILINE)
    if not found:
        raise LabError(f"dnsperf's report has no {pattern.split(':')[0].strip()!r}: {text[-400:]!r}")
    return float(found[1])


def parse_dnsperf(text: str) -> Load:
    """Read dnsperf's statistics; LabError when it reported errors or the text is not whole."""
    errors = re.findall(r"^.*(?:\[Error\]|Error:|error:).*$", text, re.MULTILINE)
    if errors:
        raise LabError(f"dnsperf: {errors[0].strip()}")
    codes = re.search(r"^\s*Response codes:\s*(.*)$", text, re.MULTILINE)
    rcodes = {
        name: int(count) for name, count in re.findall(r"([A-Z0-9]+) (\d+) \(", codes[1] if codes else "")
    }
    completed = int(_number(r"Queries completed:\s+(\d+)", text))
    has_latency = completed > 0
    return Load(
        sent=int(_number(r"Queries sent:\s+(\d+)", text)),
        completed=completed,
        lost=int(_number(r"Queries lost:\s+(\d+)", text)),
        qps=_number(r"Queries per second:\s+([\d.]+)", text),
        run_time=_number(r"Run time \(s\):\s+([\d.]+)", text),
        latency_avg=_number(r"Average Latency \(s\):\s+([\d.]+)", text) if has_latency else 0.0,
        latency_min=_number(r"Average Latency.*\(min ([\d.]+)", text) if has_latency else 0.0,
        latency_max=_number(r"Average Latency.*max ([\d.]+)", text) if has_latency else 0.0,
        rcodes=rcodes,
    )


def dnsperf_argv(
    target: Address, queries: Path, seconds: float, rate: int = 0, clients: int = 20
) -> list[str]:
    """Closed loop with 1,000 outstanding; rate 0 is saturation."""
    argv = ["dnsperf", "-s", target.host, "-p", str(target.port), "-d", str(queries), "-l", f"{seconds:g}"]
    argv += ["-c", str(clients), "-T", "1", "-q", "1000"]
    return [*argv, "-Q", str(rate)] if rate else argv


def run_dnsperf(target: Address, queries: Path, seconds: float, rate: int = 0, clients: int = 20) -> Load:
    """Run dnsperf to its end (bounded) and read its report; an answer that is not NOERROR is an error."""
    argv = dnsperf_argv(target, queries, seconds, rate, clients)
    # Killed on any exception, Ctrl-C too: `run` does that for its child.
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=seconds + 20, start_new_session=True
        )
    except subprocess.TimeoutExpired as exc:
        raise LabError(f"dnsperf did not end within {seconds + 20:g} s") from exc
    if done.returncode != 0:
        raise LabError(f"dnsperf exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-400:]}")
    load = parse_dnsperf(done.stdout + done.stderr)
    wrong = {name: count for name, count in load.rcodes.items() if name != "NOERROR"}
    if wrong:
        raise LabError(f"dnsperf got answers that are not NOERROR: {wrong}")
    if not load.completed:
        raise LabError(f"dnsperf got no answer to {load.sent} queries")
    return load
