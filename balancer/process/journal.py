"""The log: one line per event on standard error, plain or as JSON, with priorities for the journal. In every process.

A text may begin with its priority, as sd-daemon(3) has it ("<4>", see component.py). The journal is given it as it
is, where standard error leads there (JOURNAL_STREAM); JSON has it as a word; elsewhere it is left away. Whatever
is in a text, it is one line: what cannot be printed is escaped, so nobody can forge lines by what they send us.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from balancer.component import BAD, ERROR, NOTICE, WARNING, Event

VARIABLE = "NS7_LOG"        # of the environment: how children are to write
LEVELS = {ERROR: "error", WARNING: "warning", NOTICE: "notice"}
INFO = "<6>"


class Journal:
    """The log of one process; called with a text it writes a line. Before `begin` it is the supervisor's, and plain."""

    def __init__(self) -> None:
        self._process, self._json, self._priorities = "", False, False

    def begin(self, process: str, form: str | None = None) -> None:
        """Be the log of this process ("" is the supervisor), "plain" or "json"; None: as its parent is.

        What Python itself has to say, an exception that nobody caught above all, is written in the same way.
        """
        form = form or os.environ.get(VARIABLE, "plain")
        os.environ[VARIABLE] = form
        self._process, self._json = process, form == "json"
        self._priorities = leads_to_journal(os.environ)
        sys.excepthook = self._on_exception
        logging.getLogger().handlers = [Handler(self)]

    def __call__(self, text: str) -> None:
        self.write(text)

    def event(self, event: Event) -> None:
        """One line for an event."""
        text = (WARNING if event.after in BAD else NOTICE) + told(event)
        self.write(text, event=event._asdict())

    def write(self, text: str, trace: str = "", **fields: Any) -> None:
        """One line, with more fields where it is JSON. trace: the lines of a traceback, which stand below it where it
        is not. A reader that has gone is no reason to fail."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(encode(self._process, text, trace, fields, time.time(), self._json, self._priorities))
            sys.stderr.flush()

    def _on_exception(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        self.write(f"{ERROR}ended by an exception: {kind.__name__}: {error}",
                   "".join(traceback.format_exception(kind, error, trace)))


class Sparse:
    """Lets `burst` lines through in `period` seconds and counts the rest: for what a client could cause. Pure."""

    def __init__(self, burst: int, period: float) -> None:
        self._burst, self._period = burst, period
        self._left, self._until, self._missed = burst, 0.0, 0

    def thin(self, text: str, now: float) -> str:
        """The text, with how many were left out before it; "" when it is to be left out itself."""
        if now >= self._until:
            self._left, self._until = self._burst, now + self._period
        if self._left <= 0:
            self._missed += 1
            return ""
        self._left -= 1
        missed, self._missed = self._missed, 0
        return f"{text} ({missed} such lines were left out)" if missed else text


class Handler(logging.Handler):
    """What libraries log, warnings and worse; some of it may be a client's doing, so not all of many."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self._journal, self._sparse = journal, Sparse(20, 60.0)

    def emit(self, record: logging.LogRecord) -> None:
        text = self._sparse.thin(record.getMessage(), time.monotonic())
        if text:
            trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
            self._journal.write((ERROR if record.levelno >= logging.ERROR else WARNING) + text, trace)


def told(event: Event) -> str:
    """An event for people, in one line."""
    named = event.subject if event.subject.startswith(event.kind) else f"{event.kind} {event.subject}"
    changed = event.after if event.before in ("", event.after) else f"{event.before} → {event.after}"
    return f"{named}: {changed}" + (f": {event.reason}" if event.reason else "")


def encode(process: str, text: str, trace: str, fields: Mapping[str, Any], now: float, as_json: bool,
           priorities: bool) -> str:
    """What is written, with its newlines."""
    priority = text[:3] if text[:3] in LEVELS else INFO
    text = text.removeprefix(priority)
    lead = priority if priorities else ""
    if as_json:
        line = {"time": round(now, 6), "level": LEVELS.get(priority, "info"), "process": process or "supervisor",
                "message": text, **fields, **({"traceback": trace} if trace else {})}
        return f"{lead}{json.dumps(line)}\n"
    shown = "; ".join(_printable(line) for line in text.splitlines())
    return f"{lead}ns7 {process + ': ' if process else ''}{shown}\n" + "".join(
        f"{lead}{line}\n" for line in trace.splitlines())


def leads_to_journal(environment: Mapping[str, str]) -> bool:
    """Whether standard error is the journal's stream, as systemd.exec(5) says it can be told."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _printable(line: str) -> str:
    return line if line.isprintable() else "".join(
        each if each.isprintable() else each.encode("unicode_escape", "backslashreplace").decode() for each in line)


log = Journal()
