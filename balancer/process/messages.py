"""Every message between our processes, in one place, grouped by direction. Pure: bytes in, bytes out.

A message is one JSON array [kind, field, …] in one SEQPACKET datagram, with descriptors beside it where the fields
say so. Unknown or ill-sized is a `ProtocolError`, fatal to the receiver.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, get_args

from balancer.component import Event
from balancer.errors import ProtocolError

MOST_BYTES = 4 << 20            # of one message; above INLINE_BYTES it travels in a memfd (channel.py)
MOST_DESCRIPTORS = 253          # SCM_MAX_FD


# supervisor → worker

class Attach(NamedTuple):
    """Descriptors: config, verdicts (read-only), own row, own slots, then the rows of other workers (read-only)."""

    others: int


class Admit(NamedTuple):
    """The access lists of a service: pairs of 128-bit numbers, see datapath/admission.pyx."""

    service: int
    query: list[list[int]]
    transfer: list[list[int]]
    update: list[list[int]]
    notify: list[list[int]]


class Listen(NamedTuple):
    """Descriptor: one bound socket, of TCP one that listens."""

    service: int
    proto: str = "udp"


class TcpLimits(NamedTuple):
    """What holds for the TCP connections of a service, this worker's part; see datapath/relay.pyx."""

    service: int
    timeout_ns: int
    idle_ns: int
    message_ns: int
    lifetime_ns: int
    queries: int
    reads: int
    connections: int
    per_client: int


class TcpReach(NamedTuple):
    """Where a server is connected to over TCP, from which address, and how often by this worker."""

    service: int
    slot: int
    host: str
    port: int
    source: str | None
    limit: int


class Reach(NamedTuple):
    """Descriptors: connected sockets toward a server."""

    service: int
    slot: int


class Go(NamedTuple):
    """All has been handed over: adopt what the slots hold and start."""


class Changed(NamedTuple):
    """Obey the configuration table as it is now. Comes after the sockets that the change needs."""


# any child → supervisor

class Imported(NamedTuple):
    """The process has loaded its code, of this version, and waits to be told what to be."""

    version: str


# worker → supervisor

class Listening(NamedTuple):
    """The worker serves; `adopted` queries of its predecessor are in flight."""

    adopted: int


# supervisor → admin, alert, component

class Start(NamedTuple):
    """Be the process you were started for. services: as `component.Service`s. snapshot: a predecessor's last.

    Descriptors: config (read-only), the verdicts (for their writer not), the rows of all workers (read-only), then the
    sockets named in `sockets`.
    """

    node: str
    state: str
    section: Any
    services: list[Any]
    snapshot: dict[str, Any]
    rows: int
    sockets: list[str]


class Configure(NamedTuple):
    """The file has changed: this process's section, the services."""

    section: Any
    services: list[Any]


class Rows(NamedTuple):
    """Other workers from now on. Descriptors: their rows (read-only)."""


class Notice(NamedTuple):
    """An event of this host."""

    event: list[Any]

    def read(self) -> Event:
        """The event itself."""
        try:
            return Event(*self.event)
        except TypeError as error:
            raise ProtocolError("an event of the wrong size") from error


class Snapshot(NamedTuple):
    """What another process published; name "" is the supervisor."""

    name: str
    data: dict[str, Any]


class HandOver(NamedTuple):
    """Another supervisor takes over: end at once and undo nothing. What is published last goes to the successor."""


# both ways

class Standing(NamedTuple):
    """What this host is among those that could hold its floating addresses, see `component.STANDINGS`."""

    standing: str


# admin, alert, component → supervisor

class Started(NamedTuple):
    """The process runs."""


class Emit(NamedTuple):
    """Something happened: an event without its id."""

    event: list[Any]

    def read(self) -> Event:
        """The event itself."""
        return Notice(self.event).read()


class Publish(NamedTuple):
    """The process's present state."""

    data: dict[str, Any]


# both ways

class Ask(NamedTuple):
    """A request; `number` comes back with its Reply. kind: whom to ask ("" is the supervisor, or the receiver)."""

    number: int
    kind: str
    verb: str
    arguments: dict[str, Any]
    timeout: float


class Reply(NamedTuple):
    """The result of a request, or the reason why there is none. change: before and after of what it has changed."""

    number: int
    ok: bool
    result: Any
    change: list[str] = []


class Stop(NamedTuple):
    """Take nothing new, finish what is in flight, end. grace: seconds that TCP connections in use may go on.

    alone: which TCP listeners, by their order, nobody else listens on: they shall listen no more.
    """

    grace: float = 0.0
    alone: list[int] = []


# between the supervisors of two versions (upgrade.py). They are of different age, so what stands here stays as it is;
# whoever changes it raises HAND_OVER. A Notice, a Snapshot and Started travel here too.

HAND_OVER = 1


class Inherit(NamedTuple):
    """old → new: what the descriptors beside it are, one word each: "listener", "control", "config", "row",
    "verdicts"."""

    kinds: list[str]


class Estate(NamedTuple):
    """old → new: all of it has been said. version: the old program's. restarts: workers replaced so far."""

    protocol: int
    version: str
    control: str
    restarts: int


class Prepared(NamedTuple):
    """new → old: the new workers listen, and what else shall run has loaded its code.

    kept: which of the listeners, by their order, go on to be used. attached: the old memory is read as it is;
    else its counters are needed by value.
    """

    version: str
    kept: list[int]
    attached: bool


class Counters(NamedTuple):
    """old → new: a service of the old table with all its counters, as `TableView.services` tells it."""

    service: dict[str, Any]


class Ended(NamedTuple):
    """old → new: all processes but the old workers have handed over and ended: start the rest, and say Started."""


class Succeed(NamedTuple):
    """old → new: the service manager knows that the new supervisor is the one; the control socket is its own."""


class Refused(NamedTuple):
    """new → old: it will not be; nothing has changed."""

    reason: str


Message = (Attach | Admit | Listen | TcpLimits | TcpReach | Reach | Go | Changed | Imported | Listening | Start
           | Configure | Rows | Notice | Snapshot | Standing | HandOver | Started | Emit | Publish | Ask | Reply | Stop
           | Inherit | Estate | Prepared | Counters | Ended | Succeed | Refused)
KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in get_args(Message)}


def encode(message: Message) -> bytes:
    """One message; ProtocolError when it is too long for any channel."""
    data = json.dumps([type(message).__name__, *message]).encode()
    if len(data) > MOST_BYTES:
        raise ProtocolError(f"{type(message).__name__} of {len(data)} bytes, at most {MOST_BYTES}")
    return data


def decode(data: bytes) -> Message:
    """The message in these bytes."""
    try:
        kind, *fields = json.loads(data)
        return KINDS[kind](*fields)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ProtocolError(f"unknown or ill-formed message of {len(data)} bytes") from error
