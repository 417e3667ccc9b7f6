"""The lab of one benchmark run: a temporary folder, free loopback ports, and processes that are always ended.

Runs in the benchmark process. Every child is a session of its own, so Ctrl-C reaches only us and the
children are ended by pid, whatever happened: the whole tree, also those that left their process group.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import resource
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from benchmarks import meter
from tests.helpers.processes import Followed

ROOT = Path(__file__).resolve().parent.parent
# Below the ephemeral range, so no peer's own source port can take a listener's port.
PORTS = range(15000, 32000)
STOP_SECONDS = 5.0
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


class Address(NamedTuple):
    """An IPv4 loopback address and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class LabError(Exception):
    """Something the run needs did not work; the text is for the operator."""


@dataclass
class Process:
    """One started program and where it writes."""

    name: str
    popen: subprocess.Popen[bytes] | Followed
    log: Path
    argv: Sequence[str] = ()

    @property
    def pid(self) -> int:
        return self.popen.pid

    def alive(self) -> bool:
        return self.popen.poll() is None

    def last_words(self, lines: int = 5) -> str:
        text = self.log.read_text(errors="replace").strip().splitlines()
        return " | ".join(text[-lines:]) or "(no output)"


@dataclass
class Lab:
    """A folder and the processes started in it; `close` ends them all."""

    folder: Path
    processes: list[Process] = field(default_factory=list)

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Process:
        """Start argv from the repository's root, output to a log in the folder."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=dict(os.environ, **(env or {})),
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        process = Process(name, popen, log, argv)
        self.processes.append(process)
        return process

    def restart(self, process: Process) -> None:
        """Stop it, and start the same again."""
        self.stop(process)
        process.popen = self.start(process.name, process.argv).popen
        self.processes[-1] = process

    def stop(self, process: Process) -> None:
        """SIGTERM, a bounded wait, then SIGKILL for every process of its tree that is left."""
        members = {pid: meter.start_time(pid) for pid in meter.tree(process.pid)}
        if process.alive():
            process.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.popen.wait(STOP_SECONDS)
        for pid, started in members.items():
            # The start time tells a survivor from a stranger who got its pid.
            if started is not None and meter.start_time(pid) == started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.popen.wait(STOP_SECONDS)
        for pid in members:
            with contextlib.suppress(ChildProcessError):  # another's child, or reaped already
                os.waitpid(pid, 0)
        self.processes.remove(process)

    def close(self) -> None:
        for process in reversed(list(self.processes)):
            self.stop(process)


def _die_with_parent() -> None:
    """In the child: end when we are killed outright and cannot end it."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _on_signal(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def open_lab() -> Iterator[Lab]:
    """A lab for one run; SIGTERM and SIGHUP end it as Ctrl-C does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Orphans of a peer come to us and not to pid 1, so they stay visible until they are reaped.
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = {number: signal.signal(number, _on_signal) for number in (signal.SIGTERM, signal.SIGHUP)}
    with tempfile.TemporaryDirectory(prefix="ns7-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # nginx's workers, when started as root, become another user
        lab = Lab(folder)
        try:
            yield lab
        finally:
            # A second Ctrl-C must not interrupt the ending of the processes.
            interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
            for number in before:
                signal.signal(number, signal.SIG_IGN)
            lab.close()
            signal.signal(signal.SIGINT, interrupt)
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def ending_undisturbed() -> Iterator[None]:
    """The innermost of several contexts: once it is left, no signal interrupts the ending of the others."""
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


def free_port(hosts: Sequence[str] = ("127.0.0.1",)) -> int:
    """A port free on all hosts for UDP and TCP."""
    for _ in range(200):
        port = random.choice(PORTS)
        with contextlib.ExitStack() as stack:
            try:
                for host in hosts:
                    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                        sock = stack.enter_context(socket.socket(socket.AF_INET, kind))
                        sock.bind((host, port))
            except OSError:
                continue
            return port
    raise LabError("no free port on loopback")


def wait_until(deadline: float) -> Iterator[None]:
    """Yield every 50 ms until the deadline (CLOCK_MONOTONIC seconds) has passed."""
    while time.monotonic() < deadline:
        yield
        time.sleep(0.05)
