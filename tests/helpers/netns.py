"""Network namespaces of our own: unique names, documentation addresses, gone when the test is over.

A socket made inside `namespace.entered()` stays in that namespace whichever thread uses it later.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tests.helpers.need import missing, require_program, require_root

CLONE_NEWNET = 0x40000000
FOLDER = Path("/run/netns")


def require_netns() -> None:
    """Skip, naming what is missing, where namespaces cannot be made."""
    require_root("a network namespace")
    require_program("ip", "iproute2")
    name = _unique("probe")
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if done.returncode:
        missing(f"network namespaces cannot be made here: {done.stderr.strip()}")
    subprocess.run(["ip", "netns", "delete", name], check=True)


class Namespace:
    """One namespace with loopback up."""

    def __init__(self, purpose: str) -> None:
        self.name = _unique(purpose)
        _ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    @property
    def prefix(self) -> list[str]:
        """What to write before a command so that it runs inside."""
        return ["ip", "netns", "exec", self.name]

    def run(self, *argv: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            [*self.prefix, *argv], input=stdin, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, f"{' '.join(argv)} in {self.name}: {done.stderr.strip()}"
        return done.stdout

    def ip(self, *arguments: str) -> None:
        _ip("-netns", self.name, *arguments)

    def nft(self, rules: str) -> None:
        require_program("nft", "nftables")
        self.run("nft", "-f", "-", stdin=rules)

    def add_address(self, address: str, device: str = "lo") -> None:
        """An address with its prefix length; usable at once."""
        self.ip("address", "add", address, "dev", device, *(["nodad"] if ":" in address else []))

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread, and no other, is inside."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        other = os.open(FOLDER / self.name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(other)
            try:
                yield
            finally:
                _setns(own)
        finally:
            os.close(own)
            os.close(other)

    def close(self) -> None:
        _ip("netns", "delete", self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def connect(left: Namespace, right: Namespace, device: str = "veth0") -> None:
    """A veth pair, one end in each; both are named `device` and are up."""
    peer = f"p{secrets.token_hex(4)}"
    left.ip("link", "add", device, "type", "veth", "peer", "name", peer, "netns", right.name)
    right.ip("link", "set", peer, "name", device)
    for end in (left, right):
        end.ip("link", "set", device, "up")


def _unique(purpose: str) -> str:
    return f"ns7test-{purpose}-{os.getpid()}-{secrets.token_hex(3)}"


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"


def _setns(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12
    if libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
