"""sd_notify(3) by hand: readiness, reload, stop and the watchdog. A no-op where systemd does not ask."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(*facts: str) -> None:
    """Tell the service manager, e.g. notify("READY=1"). Never blocks, never fails."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.setblocking(False)
        one.sendto("\n".join(facts).encode(), "\0" + path[1:] if path.startswith("@") else path)


def watchdog_interval() -> float | None:
    """Seconds between signs of life: half of what systemd allows; None when it watches nothing."""
    try:
        return max(int(os.environ["WATCHDOG_USEC"]) / 2e6, 0.05)
    except (KeyError, ValueError):
        return None
