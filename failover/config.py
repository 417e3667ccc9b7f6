"""The section [failover]."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, PlainValidator, model_validator

from balancer.config.model import Section
from balancer.config.values import ADDRESS, PATH, Rule, choice, duration, whole
from failover.vrrp import LEAST, MOST

_INTERFACE = re.compile(r"[A-Za-z0-9_.:@-]{1,15}")
MOST_ADDRESSES = 20
STATUS_PORT = 8112


def parse_interface(value: Any) -> str:
    """The name of a network interface (at most 15 characters: IFNAMSIZ)."""
    if not isinstance(value, str) or _INTERFACE.fullmatch(value) is None or value in (".", ".."):
        raise ValueError('must be the name of a network interface, such as "eth0"')
    return value


def parse_interval(value: Any) -> float:
    """Seconds; VRRPv3 counts in hundredths."""
    seconds: float = duration("50ms", "40s")(value)
    if round(seconds * 100) != round(seconds * 100, 6):
        raise ValueError("must be a multiple of 10ms")
    return seconds


INTERFACE = Rule("the name of a network interface", parse_interface)
INTERVAL = Rule("from 50ms to 40s, a multiple of 10ms", parse_interval)


class Failover(Section):
    """Keeps the virtual addresses on a living director: VRRPv3 with the other director."""

    interface: Annotated[str, PlainValidator(INTERFACE)] = Field(
        description="Interface that gets the virtual addresses, and on which the directors hear each other.",
        examples=["eth0"])
    virtual_router_id: Annotated[int, PlainValidator(whole(1, 255))] = Field(
        description="The same on all directors of these addresses, and no other's on this link.", examples=[7])
    addresses: tuple[Annotated[str, PlainValidator(ADDRESS)], ...] = Field(
        min_length=1, max_length=MOST_ADDRESSES,
        description="The virtual addresses: all are on the active director. Sockets are bound to them before.",
        examples=[["192.0.2.90"]])
    priority: Annotated[int, PlainValidator(whole(LEAST, MOST))] = Field(
        default=100, description="The director with the highest priority that can serve is the active one.")
    interval: Annotated[float, PlainValidator(INTERVAL)] = Field(
        default="300ms", validate_default=True,
        description="Time between two adverts; a director that is silent for between three and four of them is dead.")
    preempt: Annotated[str, PlainValidator(choice("on", "off"))] = Field(
        default="on",
        description="Whether a better director that comes back takes over; one that cannot serve is always relieved.")
    peers: tuple[Annotated[str, PlainValidator(ADDRESS)], ...] = Field(
        default=(), max_length=16,
        description="The directors' own addresses (this one's may be among them): adverts go to them alone, and only "
        "theirs are obeyed. Without: multicast, and whoever is on the link.", examples=[["192.0.2.87", "192.0.2.88"]])
    checksum: Annotated[str, PlainValidator(choice("pseudo", "plain"))] = Field(
        default="pseudo",
        description="Checksum of IPv4 adverts: pseudo as keepalived has it, plain as RFC 9568. Both are understood.")
    arp_refresh: Annotated[float, PlainValidator(duration("1s", "1h"))] = Field(
        default="60s", validate_default=True,
        description="How often the active director reminds switches and neighbours where the addresses are.")
    key_file: Annotated[str | None, PlainValidator(PATH)] = Field(
        default=None, validate_default=False, examples=["/etc/ns7/failover.key"],
        description="File with the key (at least 16 bytes, the same on all directors) that authenticates what the "
        "directors tell each other beside the adverts; unset = they tell nothing.")
    status_port: Annotated[int, PlainValidator(whole(1, 65535))] = Field(
        default=STATUS_PORT, description="UDP port at which the directors tell each other their status.")

    @model_validator(mode="after")
    def _distinct(self) -> Failover:
        if len(set(self.addresses)) != len(self.addresses):
            raise ValueError("addresses must be different ones")
        if set(self.addresses) & set(self.peers):
            raise ValueError("peers must be the directors' own addresses, not a virtual one")
        return self
