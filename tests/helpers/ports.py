"""Free loopback ports. Runs in the test process."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections import deque

# Below the ephemeral range, so nobody's own source port can take a listener's port before ns7 binds it.
# Test processes that run side by side (pytest-xdist: gw0, gw1, …) take every eighth, each its own.
OWN = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
PORTS = range(15000 + OWN, 32000, 8)
_given: deque[int] = deque(maxlen=500)      # lately: not given again before their takers have bound them


def family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def address(host: str, port: int) -> str:
    """As the configuration writes it: 127.0.0.1:5300, [::1]:5300."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split(text: str) -> tuple[str, int]:
    """The inverse of `address`."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def free_port(*hosts: str) -> int:
    """A port free for UDP and TCP on all hosts (default: 127.0.0.1)."""
    for _ in range(200):
        port = random.choice(PORTS)
        if port in _given:
            continue
        with contextlib.ExitStack() as stack:
            try:
                for host in hosts or ("127.0.0.1",):
                    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                        sock = stack.enter_context(socket.socket(family(host), kind))
                        if sock.family == socket.AF_INET6:
                            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                        sock.bind((host, port))
            except OSError:
                continue
            _given.append(port)
            return port
    raise RuntimeError(f"no free port on {hosts}")


def free_address(host: str = "127.0.0.1") -> str:
    return address(host, free_port(host))
