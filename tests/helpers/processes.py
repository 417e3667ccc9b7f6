"""Processes by pid: who is whose child, who still lives. Reads /proc."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path


def stat(pid: int) -> tuple[str, int, int] | None:
    """(state letter, parent's pid, start time in clock ticks), None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[1]), int(fields[19])


def alive(pid: int) -> bool:
    """Runs; a zombie does not."""
    found = stat(pid)
    return found is not None and found[0] not in "ZX"


def stopped(pid: int) -> bool:
    """Under SIGSTOP."""
    found = stat(pid)
    return found is not None and found[0] == "T"


def tree(pid: int) -> dict[int, int]:
    """The process and all its descendants: pid → start time, which tells a survivor from a stranger."""
    parents: dict[int, list[int]] = {}
    started: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := stat(int(entry.name))):
            started[int(entry.name)] = found[2]
            parents.setdefault(found[1], []).append(int(entry.name))
    members: dict[int, int] = {}
    todo = [pid]
    while todo:
        one = todo.pop()
        if one in started:
            members[one] = started[one]
            todo += parents.get(one, [])
    return members


def children_of(pid: int) -> list[int]:
    """The pids of its direct children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def role(pid: int) -> str:
    """What a child of the supervisor is: "worker", "admin", …; "" for anything else."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return words[words.index(b"--role") + 1].decode() if b"--role" in words else ""


class Followed:
    """A process that somebody else started, with what is used of a `subprocess.Popen`. Only `adopting` gives it an exit
    code, once its parent has ended; without it that is 0."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._pidfd], [], [], 0)[0]:
            try:
                self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            except ChildProcessError:
                self.returncode = 0
            os.close(self._pidfd)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; subprocess.TimeoutExpired when it does not end."""
        if self.returncode is None:
            select.select([self._pidfd], [], [], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    """Processes whose parent ends become children of this one, as they do of systemd: PR_SET_CHILD_SUBREAPER.

    Supervisors that upgrades have left over, in a test that failed, are ended at the end.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(36, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(36, 0, 0, 0, 0)
        for pid in children_of(os.getpid()):
            with contextlib.suppress(OSError):
                if b"--inherit" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    kill(tree(pid))


def survivors(members: dict[int, int]) -> list[int]:
    return [pid for pid, born in members.items() if alive(pid) and (stat(pid) or ("", 0, 0))[2] == born]


def kill(members: dict[int, int]) -> None:
    for pid in survivors(members):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
