"""Whether the kernel tracks each query as a connection. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from balancer.component import Finding


class Tracking(NamedTuple):
    """tracked, most: entries of the connection table now, and at most; flows: of them to our addresses (None: not to be
    seen); exempt: whether a rule says notrack for a port of ours (None: the rules cannot be seen); ports: ours."""

    tracked: int
    most: int
    flows: int | None
    exempt: bool | None
    ports: tuple[int, ...]


def judge_tracking(facts: Tracking) -> Iterator[Finding]:
    if not facts.tracked or facts.exempt:
        return
    ports = ", ".join(map(str, facts.ports))
    many = "" if facts.flows is None else f", {facts.flows} of them to ns7's addresses"
    which = f"{{ {ports} }}" if len(facts.ports) > 1 else ports
    rules = ["add table inet ns7", "add chain inet ns7 in { type filter hook prerouting priority raw; }",
             "add chain inet ns7 out { type filter hook output priority raw; }",
             f"add rule inet ns7 in udp dport {which} notrack", f"add rule inet ns7 in udp sport {which} notrack",
             f"add rule inet ns7 out udp sport {which} notrack", f"add rule inet ns7 out udp dport {which} notrack"]
    yield Finding(
        f"connection tracking is on and no rule exempts UDP port {ports} ({facts.tracked} of {facts.most} entries used"
        f"{many})",
        "Each query takes an entry for half a minute; when the table is full the kernel drops packets.",
        f"nft '{'; '.join(rules)}'")
