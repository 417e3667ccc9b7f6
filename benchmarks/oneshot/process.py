"""The one-shot client as a process of its own, so that what is done to the balancer meanwhile cannot stop it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.lab import Lab, LabError
from benchmarks.oneshot.plan import PATIENCE_WITH_ITSELF
from benchmarks.oneshot.record import Result, Slow

LEAD = 2.0  # seconds for the process to come up before the load begins


class Client:
    """Begins `LEAD` seconds from now; `more` are options of `python -m benchmarks.oneshot`, `prefix` goes before."""

    def __init__(
        self,
        lab: Lab,
        name: str,
        target: object,
        queries: Path,
        rate: float,
        seconds: float,
        more: Sequence[str] = (),
        prefix: Sequence[str] = (),
    ) -> None:
        self.start, self.seconds = time.monotonic() + LEAD, seconds
        argv = [*prefix, sys.executable, "-m", "benchmarks.oneshot", str(target), "--queries", str(queries)]
        argv += ["--rate", f"{rate:g}", "--seconds", f"{seconds:g}", "--start", f"{self.start:.6f}", *more]
        self._lab, self._process = lab, lab.start(name, argv)

    def wait_until(self, second: float) -> None:
        """Sleep until so many seconds after the start of the load."""
        time.sleep(max(0.0, self.start + second - time.monotonic()))

    @property
    def second(self) -> float:
        """Seconds since the start of the load."""
        return time.monotonic() - self.start

    def result(self) -> Result:
        """Wait for the end and read what it tells; LabError when it tells nothing."""
        try:
            code = self._process.popen.wait(max(0.0, -self.second) + self.seconds * PATIENCE_WITH_ITSELF + 30)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self._process.name} did not end") from None
        text = self._process.log.read_text()
        self._lab.stop(self._process)
        if code:
            raise LabError(f"{self._process.name}: exit code {code}: {self._process.last_words()}")
        return parse(text)


def parse(text: str) -> Result:
    """A result as `python -m benchmarks.oneshot` prints it."""
    try:
        result = Result(**json.loads(text))
    except (ValueError, TypeError) as exc:
        raise LabError(f"the one-shot client said {text[-200:]!r}") from exc
    result.slowest = [Slow(*slow) for slow in result.slowest]
    result.each = [(sent, taken) for sent, taken in result.each]
    return result
