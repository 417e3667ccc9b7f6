"""systemd's protocols by hand: sd_notify(3) for readiness, reload, stop and the watchdog; sd_pid_notify_with_fds(3)
and sd_listen_fds(3) for sockets that outlive us. A no-op where systemd does not ask.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Mapping, MutableMapping, Sequence

FIRST_DESCRIPTOR = 3        # SD_LISTEN_FDS_START
MOST_DESCRIPTORS = 4096     # more than any store holds for us
AT_ONCE = 250               # descriptors in one message; the kernel takes 253
STORE_PATIENCE = 2.0        # seconds for a busy service manager to take a message


def notify(*facts: str) -> None:
    """Tell the service manager, e.g. notify("READY=1"). Never blocks, never fails."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.setblocking(False)
        one.sendto("\n".join(facts).encode(), "\0" + path[1:] if path.startswith("@") else path)


class Store:
    """The service manager's descriptor store: what is kept there comes back at the next start (`take`).

    stored: what it may hold already, by name. Only changes are told.
    """

    def __init__(self, stored: Iterable[tuple[str, socket.socket]] = ()) -> None:
        self._kept: dict[str, set[int]] = {}        # inodes by name
        for name, one in stored:
            self._kept.setdefault(name, set()).add(os.fstat(one.fileno()).st_ino)

    def keep(self, sockets: Mapping[str, Sequence[socket.socket]]) -> bool:
        """Hold exactly these, by name; whether there is a service manager that may."""
        for name in [*self._kept]:
            if name not in sockets or self._kept[name] != {os.fstat(one.fileno()).st_ino for one in sockets[name]}:
                del self._kept[name]
                _tell(f"FDSTOREREMOVE=1\nFDNAME={name}", ())
        for name, some in sockets.items():
            if name in self._kept:
                continue
            self._kept[name] = {os.fstat(one.fileno()).st_ino for one in some}
            for at in range(0, len(some), AT_ONCE):
                # FDPOLL=0: an error on a socket (a UDP one reports what ICMP says) must not throw it out.
                _tell(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", [one.fileno() for one in some[at:at + AT_ONCE]])
        return "NOTIFY_SOCKET" in os.environ


def _tell(text: str, descriptors: Sequence[int]) -> None:
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.settimeout(STORE_PATIENCE)
        one.connect("\0" + path[1:] if path.startswith("@") else path)
        socket.send_fds(one, [text.encode()], descriptors)


def take(environment: MutableMapping[str, str], pid: int) -> list[tuple[str, socket.socket]]:
    """The sockets that the service manager hands to process `pid`, each with its name ("" for one that is none).

    sd_listen_fds(3). What is no socket is closed. The variables are removed: they are not meant for our children.
    """
    count, whose, told = (environment.pop(name, "") for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"))
    if whose != str(pid) or not (count.isascii() and count.isdecimal()) or not 0 < int(count) <= MOST_DESCRIPTORS:
        return []
    names = told.split(":")
    found = []
    for place in range(int(count)):
        name = names[place] if place < len(names) and names[place].isprintable() else ""
        try:
            os.set_inheritable(FIRST_DESCRIPTOR + place, False)
            found.append((name, socket.socket(fileno=FIRST_DESCRIPTOR + place)))
        except OSError:
            with contextlib.suppress(OSError):
                os.close(FIRST_DESCRIPTOR + place)
    return found


def watchdog_interval() -> float | None:
    """Seconds between signs of life: half of what systemd allows; None when it watches nothing."""
    try:
        return max(int(os.environ["WATCHDOG_USEC"]) / 2e6, 0.05)
    except (KeyError, ValueError):
        return None
