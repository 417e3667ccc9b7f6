"""Whether ns7 has the rights and the buffers that its configuration asks for. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from balancer.component import Finding, User


class Rights(NamedTuple):
    """needed: (capability, what for)."""

    needed: tuple[tuple[str, str], ...]
    user: User


def judge_rights(facts: Rights) -> Iterator[Finding]:
    missing: dict[str, list[str]] = {}
    for capability, purpose in facts.needed:
        if capability not in facts.user.capabilities:
            missing.setdefault(capability, []).append(purpose)
    if missing:
        words = "; ".join(f"CAP_{name} ({', '.join(purposes)})" for name, purposes in missing.items())
        yield Finding(
            f"ns7 {'runs' if facts.user.runs else 'would run'} as {facts.user.name} without {words}",
            "It cannot open these ports, or cannot move the address.",
            "ns7 sample-config systemd > /etc/systemd/system/ns7.service && systemctl daemon-reload && "
            "systemctl restart ns7", "error")


class Buffers(NamedTuple):
    """asked: bytes of process.udp_buffer; granted: of our sockets, by address; most: what the kernel grants without
    NET_ADMIN, by sysctl (None: it does not tell); forced: NET_ADMIN is there."""

    asked: int
    granted: tuple[tuple[str, int], ...]
    most: tuple[tuple[str, int | None], ...]
    forced: bool


def judge_buffers(facts: Buffers) -> Iterator[Finding]:
    small = min(facts.granted, key=lambda each: each[1], default=None)
    low = [name for name, value in facts.most if value is not None and value < facts.asked]
    if small is not None:
        if small[1] >= facts.asked:
            return
        what = f"{small[0]} has a receive buffer of {small[1]} bytes, and process.udp_buffer asks for {facts.asked}"
    elif low and not facts.forced:
        what = f"{' and '.join(low)} are below process.udp_buffer ({facts.asked} bytes)"
    else:
        return
    names = [name for name, _ in facts.most]
    values = " ".join(f"{name}={facts.asked}" for name in names)
    yield Finding(what, "Bursts of queries overflow the queue, and the kernel drops them unseen.",
                  f"sysctl -w {values}; printf '%s\\n' {values} > /etc/sysctl.d/90-ns7-buffers.conf; ns7 upgrade")


def judge_migration(value: int | None) -> Iterator[Finding]:
    """value of net.ipv4.tcp_migrate_req; None: a kernel before 5.14 has none."""
    if value == 0:
        yield Finding("net.ipv4.tcp_migrate_req is 0",
                      "Clients that were just connecting are reset when a reload or an upgrade closes a TCP listener.",
                      "sysctl -w net.ipv4.tcp_migrate_req=1; "
                      "echo net.ipv4.tcp_migrate_req=1 > /etc/sysctl.d/90-ns7-tcp.conf")
