"""Runs other programs: never through a shell, never longer than allowed, never longer than this process lives.

The sync process is the only one of ns7 that runs rsync, rndc and named's checkers. They get no rights from it.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import NamedTuple

from balancer.errors import Ns7Error

PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
MOST_OUTPUT = 64 << 20          # bytes kept of each stream
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class ProgramError(Ns7Error):
    """A program that cannot be started, or did not end in time."""


class Done(NamedTuple):
    """How a program ended. code: negative for a signal."""

    code: int
    out: str
    err: str

    def lines(self, most: int) -> list[str]:
        """The last lines of what it said, those of standard error if there are any."""
        text = self.err if self.err.strip() else self.out
        return [line.strip() for line in text.splitlines() if line.strip()][-most:]


def find(name: str) -> str:
    """The path of a program of Debian's; ProgramError when it is not installed."""
    path = shutil.which(name, path=PATH)
    if path is None:
        raise ProgramError(f"{name} is not installed (Debian: bind9-utils)")
    return path


async def run(argv: Sequence[str], timeout: float, stdin: bytes = b"") -> Done:
    """The program to its end. It is killed when it takes longer, when the caller is cancelled or when we die."""
    # A file, not a pipe: nobody has to write while the program runs, or may have gone.
    source = os.memfd_create("ns7-stdin", os.MFD_CLOEXEC)
    try:
        os.pwrite(source, stdin, 0)
        # uvloop's preexec_fn runs between fork and exec of a process with one thread that matters: prctl is safe.
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=source, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={"PATH": PATH, "LC_ALL": "C"}, cwd="/", start_new_session=True,
            preexec_fn=lambda: _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
    except OSError as error:
        raise ProgramError(f"{argv[0]}: {error.strerror or error}") from None
    finally:
        os.close(source)
    try:
        async with asyncio.timeout(timeout):
            out, err = await asyncio.gather(_read(process.stdout), _read(process.stderr))
            code = await process.wait()
    except TimeoutError:
        raise ProgramError(f"{Path(argv[0]).name} did not end within {timeout:g} s") from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
    return Done(code, out, err)


async def _read(stream: asyncio.StreamReader | None) -> str:
    assert stream is not None
    kept = bytearray()
    while piece := await stream.read(1 << 16):
        kept += piece[:MOST_OUTPUT - len(kept)]
    return kept.decode("utf-8", "replace")


async def together(*works: Awaitable[None]) -> None:
    """Several things at once; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
