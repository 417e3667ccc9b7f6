"""Network namespaces of our own: unique names, documentation addresses, gone when the test is over.

A socket made inside `namespace.entered()` stays in that namespace whichever thread uses it later. A name tells
who made the namespace, so what a killed run left behind is known and removed by the next run.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import os
import secrets
import signal
import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from tests.helpers import processes
from tests.helpers.need import missing, require_program, require_root

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
FOLDER = Path("/run/netns")
PREFIX = "ns7test"


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
    """One namespace with loopback up. What its `popen` started is killed when it is closed."""

    def __init__(self, purpose: str) -> None:
        sweep()
        self._started: list[subprocess.Popen[bytes]] = []
        self.name = _unique(purpose)
        _ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    @property
    def prefix(self) -> list[str]:
        """What to write before a command so that it runs inside."""
        return ["ip", "netns", "exec", self.name]

    def run(self, *argv: str, stdin: str | None = None) -> str:
        """A command to its end; its output, or an AssertionError."""
        done = subprocess.run(
            [*self.prefix, *argv], input=stdin, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, f"{' '.join(argv)} in {self.name}: {done.stderr.strip()}"
        return done.stdout

    def popen(self, *argv: str, **options: Any) -> subprocess.Popen[bytes]:
        """A program that runs on; its pid is the program's own. `options` are Popen's."""
        process = subprocess.Popen([*self.prefix, *argv], start_new_session=True, **options)
        self._started.append(process)
        return process

    def ip(self, *arguments: str) -> None:
        _ip("-netns", self.name, *arguments)

    def ip_lines(self, lines: Iterable[str]) -> None:
        """Many `ip` commands by one process."""
        _ip("-netns", self.name, "-batch", "-", stdin="\n".join(lines) + "\n")

    def nft(self, rules: str) -> None:
        require_program("nft", "nftables")
        self.run("nft", "-f", "-", stdin=rules)

    def sysctl(self, name: str, value: object) -> None:
        with self.entered():
            Path("/proc/sys", name.replace(".", "/")).write_text(str(value))

    def add_address(self, address: str, device: str = "lo") -> None:
        """An address with its prefix length; usable at once."""
        self.ip("address", "add", address, "dev", device, *(["nodad"] if ":" in address else []))

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket of this namespace."""
        with self.entered():
            return socket.socket(family, kind, protocol)

    def tap(self, device: str) -> int:
        """A TAP device; it lives as long as its descriptor, which is non-blocking and moves whole frames."""
        with self.entered():
            descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TAP | IFF_NO_PI))
            except BaseException:
                os.close(descriptor)
                raise
            return descriptor

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
        for process in self._started:
            processes.kill(processes.tree(process.pid) if process.poll() is None else {})
            process.wait()
        _ip("netns", "delete", self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def connect(left: Namespace, right: Namespace, device: str = "veth0", peer: str = "") -> None:
    """A veth pair, one end in each, both up: `device` in `left`, `peer` (default: the same name) in `right`."""
    passing = f"p{secrets.token_hex(4)}"
    left.ip("link", "add", device, "type", "veth", "peer", "name", passing, "netns", right.name)
    right.ip_lines([f"link set {passing} name {peer or device}", f"link set {peer or device} up"])
    left.ip("link", "set", device, "up")


@functools.cache
def sweep() -> None:
    """Remove the namespaces of makers that no longer live, and who runs in them; once per process."""
    for path in FOLDER.glob(f"{PREFIX}-*-*-*-*"):
        _, pid, started, _ = path.name.rsplit("-", 3)
        maker = processes.stat(int(pid)) if pid.isdigit() else None
        if pid.isdigit() and (maker is None or str(maker[2]) != started):
            # Another run may be sweeping too: what is gone already is no error.
            with contextlib.suppress(AssertionError):
                for word in _ip("netns", "pids", path.name).split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(word), signal.SIGKILL)
                _ip("netns", "delete", path.name)


def _unique(purpose: str) -> str:
    """The maker's pid and start time are in the name: a pid alone may be a stranger's tomorrow."""
    maker = processes.stat(os.getpid())
    assert maker is not None
    return f"{PREFIX}-{purpose}-{os.getpid()}-{maker[2]}-{secrets.token_hex(3)}"


def _ip(*arguments: str, stdin: str | None = None) -> str:
    done = subprocess.run(["ip", *arguments], input=stdin, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)} {stdin or ''}: {done.stderr.strip()}"
    return done.stdout


def _setns(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12
    if libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
