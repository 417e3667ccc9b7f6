"""Every exception that ns7 raises on purpose. Any other exception is a bug of ours. Used by every process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Problem(NamedTuple):
    """One mistake in a configuration file: its place, its setting, what is wrong and what is allowed."""

    file: str
    line: int               # 0: no single line is to blame
    column: int
    path: str               # "service[0].server[1].weight", "" for the file itself
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class Ns7Error(Exception):
    """Root of all of ns7's exceptions."""


class ConfigError(Ns7Error):
    """A configuration file that says something impossible; `problems` has every mistake in line order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class StartError(Ns7Error):
    """A valid configuration that this host cannot serve: port taken, no rights. Exit code 2."""


class ControlError(Ns7Error):
    """The supervisor refused a command, or could not be asked."""


class Unseen(Ns7Error):
    """A check of `ns7 doctor` that cannot be made; fix: the command after which it can."""

    def __init__(self, reason: str, fix: str) -> None:
        self.fix = fix
        super().__init__(reason)


class LayoutError(Ns7Error):
    """Shared memory that is not what this program expects."""


class ProtocolError(Ns7Error):
    """A message between our processes that is unknown or ill-formed: fatal to the receiver."""
