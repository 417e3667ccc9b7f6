"""Whether this host has the addresses it needs, none that it must not have, and hears what is sent to them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple

from balancer.component import Finding, Held


class Addresses(NamedTuple):
    """wanted: (setting, address) that must be here; balances: whether this host listens; virtual: those of services
    and those that float; device: where a missing one belongs."""

    wanted: tuple[tuple[str, str], ...]
    held: tuple[Held, ...]
    device: str


def judge_missing(facts: Addresses) -> Iterator[Finding]:
    here = {each.address for each in facts.held}
    for setting, address in facts.wanted:
        if address not in here and not ip_address(address).is_unspecified:
            length = ip_address(address).max_prefixlen
            yield Finding(
                f"{setting}: {address} is not an address of this host",
                "ns7 waits for it and serves nobody there until it comes." if setting.endswith("listen") else
                "Nothing can be sent from it, so this server gets no queries.",
                f"ip address add {address}/{length} dev {facts.device or 'lo'}", "error")


class Loopback(NamedTuple):
    """virtual: addresses of services; balances: whether this host listens on them; floating: those that move."""

    virtual: frozenset[str]
    floating: frozenset[str]
    balances: bool
    held: tuple[Held, ...]


def judge_loopback(facts: Loopback) -> Iterator[Finding]:
    """LVS in direct-routing mode has the virtual address on lo of every real server."""
    for each in facts.held:
        left = each.address in facts.floating or (each.address in facts.virtual and not facts.balances)
        if each.device == "lo" and left and not ip_address(each.address).is_loopback:
            yield Finding(
                f"{each.address} is on lo, as LVS with direct routing (LVS-DR) has it",
                "This host answers ARP for the address and takes its queries from the director.",
                f"ip address delete {each.address}/{each.length} dev lo", "error")


class Arrival(NamedTuple):
    """Where packets to an address arrive and where answers leave. strict: rp_filter of that interface is 1."""

    address: str
    arrives: str
    leaves: tuple[str, ...]
    strict: bool


class Paths(NamedTuple):
    """dropped: packets that rp_filter dropped since this host is up."""

    arrivals: tuple[Arrival, ...]
    dropped: int


def judge_paths(facts: Paths) -> Iterator[Finding]:
    """RFC 3704 §2.2: strict reverse path filtering breaks asymmetric routing (Documentation/networking/ip-sysctl)."""
    told = set()
    for arrival in facts.arrivals:
        other = [device for device in arrival.leaves if device not in ("", "lo", arrival.arrives)]
        if arrival.strict and other and arrival.arrives not in told:
            told.add(arrival.arrives)
            yield Finding(
                f"rp_filter is strict on {arrival.arrives}, where {arrival.address} is, and answers leave by {other[0]}"
                f" ({facts.dropped} packets dropped so far)",
                "The kernel drops queries that come by another interface than their answers would leave by.",
                f"sysctl -w net.ipv4.conf.{arrival.arrives}.rp_filter=2", "error")
