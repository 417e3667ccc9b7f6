"""What is wrong with failover on this host, for `ns7 doctor`. Looks at files only; asks and changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from balancer.component import Finding

SYSTEM = Path("/sys/class/net")
PROC = Path("/proc/sys/net/ipv4/conf")


def doctor(config: Any) -> Iterable[Finding]:
    """The findings."""
    if config is None:
        return
    if not (SYSTEM / config.interface).exists():
        known = ", ".join(sorted(path.name for path in SYSTEM.glob("*"))) or "none"
        yield Finding(f"failover.interface: there is no {config.interface} on this host (there are: {known})",
                      "ip -brief link")
    if config.key_file is None:
        yield Finding("failover.key_file is not set: a missing standby and differing configurations are not noticed",
                      "head -c 32 /dev/urandom | base64 > /etc/ns7/failover.key   # the same on both directors")
    else:
        yield from _key(Path(config.key_file))
    if _number(PROC / config.interface / "arp_ignore") >= 8 or _number(PROC / "all" / "arp_ignore") >= 8:
        yield Finding("arp_ignore is 8: this host answers no ARP, also not for the virtual addresses",
                      f"sysctl -w net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.{config.interface}.arp_ignore=0")


def _key(path: Path) -> Iterable[Finding]:
    try:
        status = path.stat()
    except OSError as error:
        yield Finding(f"failover.key_file {path}: {error.strerror}", f"copy it from the other director to {path}")
        return
    if status.st_mode & 0o007:
        yield Finding(f"failover.key_file {path} may be read by everybody", f"chmod o= {path}")


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
