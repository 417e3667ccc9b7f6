"""Every message between our processes, in one place, grouped by direction. Pure: bytes in, bytes out.

A message is one JSON array [kind, field, …] in one SEQPACKET datagram, with descriptors beside it where the fields
say so. Unknown or ill-sized is a `ProtocolError`, fatal to the receiver.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from balancer.errors import ProtocolError

MOST_BYTES = 65536
MOST_DESCRIPTORS = 253          # SCM_MAX_FD


# supervisor → worker

class Attach(NamedTuple):
    """Descriptors: config (read-only), own row, own slots, then the rows of the other workers (read-only)."""

    others: int


class Admit(NamedTuple):
    """The access lists of a service: pairs of 128-bit numbers, see datapath/admission.pyx."""

    service: int
    query: list[list[int]]
    transfer: list[list[int]]
    update: list[list[int]]
    notify: list[list[int]]


class Listen(NamedTuple):
    """Descriptor: one bound socket."""

    service: int


class Reach(NamedTuple):
    """Descriptors: connected sockets toward a server. fresh: its slot had another server before, or none."""

    service: int
    slot: int
    fresh: bool


class Go(NamedTuple):
    """All has been handed over: adopt what the slots hold and start."""


class Changed(NamedTuple):
    """Obey the configuration table as it is now. Comes after the sockets that the change needs."""


class Stop(NamedTuple):
    """Take nothing new, relay what is in flight, end."""


# worker → supervisor

class Listening(NamedTuple):
    """The worker serves; `adopted` queries of its predecessor are in flight."""

    adopted: int


Message = Attach | Admit | Listen | Reach | Go | Changed | Stop | Listening
KINDS: dict[str, type[Message]] = {
    kind.__name__: kind for kind in (Attach, Admit, Listen, Reach, Go, Changed, Stop, Listening)
}


def encode(message: Message) -> bytes:
    """One datagram; ProtocolError when it would be too long for the channel."""
    data = json.dumps([type(message).__name__, *message]).encode()
    if len(data) > MOST_BYTES:
        raise ProtocolError(f"{type(message).__name__} of {len(data)} bytes, at most {MOST_BYTES}")
    return data


def decode(data: bytes) -> Message:
    """The message in one datagram."""
    try:
        kind, *fields = json.loads(data)
        return KINDS[kind](*fields)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ProtocolError(f"unknown or ill-formed message of {len(data)} bytes") from error
