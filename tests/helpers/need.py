"""What a test needs from the host: a skip that names what is missing; with NS7_REQUIRE=1 a failure."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    if os.environ.get("NS7_REQUIRE") == "1":
        pytest.fail(f"NS7_REQUIRE=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def require_program(name: str, package: str) -> str:
    """The program's path."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
    return path or missing(f"{name} is not installed (Debian: {package})")


def require_root(reason: str) -> None:
    if os.geteuid() != 0:
        missing(f"{reason} needs root")
