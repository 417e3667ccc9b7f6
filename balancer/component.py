"""The front door for components: what a component is, and what it is given. Imports nothing heavy.

A component is a frozen `Component` record, found by entry point (group `ns7.components`); order has no meaning. The
core names none of them, they import only this door, `balancer.errors`, `balancer.config` and `balancer.namedconf`, and
never each other.
Whatever a record names as "module:function" is imported only where it runs: `main` in the component's own process,
`commands` and `doctor` in the command line, `metrics` and `status` in the admin process.

The core's own processes admin and alert are given a `Host` too, so there is one way to be a process of ns7. What a
component keeps in `Host.state` it writes with `write_durably`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from balancer.durable import sync_folder, write_durably
from balancer.errors import StartError

if TYPE_CHECKING:
    import socket

    from balancer.table.verdicts import Verdicts
    from balancer.table.view import TableView

__all__ = ["ACTIVE", "ALONE", "STANDBY", "STANDINGS", "Component", "Event", "Finding", "Host", "Link", "Rights",
           "Server", "Service", "components", "lapse", "resolve", "sync_folder", "write_durably"]

ENTRY_POINTS = "ns7.components"
# What a host is among those that could hold its floating addresses: it has them; another one has; nobody has, as far as
# it hears. A host without any is active.
ACTIVE, STANDBY, ALONE = STANDINGS = ("active", "standby", "alone")
# What the state after an event says of its subject. One in neither list is remarkable and neither good nor bad.
BAD = frozenset({"dead", "degraded", "differs", "down", "exhausted", "expired", "failed", "fault", "hung", "lost",
                 "missing", "open", "refused", "restarting", "stale", "taken", "unreachable"})
QUIET = frozenset({"behind", "suspected"})       # shown, and nobody is told: it may be nothing
GOOD = frozenset({"applied", "closed", "current", "free", "fresh", "ok", "present", "ready", "running", "same", "up"})
AUDIT = "audit"             # the kind of events that say who changed what; its states are words for people
# How urgent a line of the log is, where its text begins so (sd-daemon(3)); without it is information.
ERROR, WARNING, NOTICE = "<3>", "<4>", "<5>"
SEVERITIES = ("error", "warning", "unknown")
RESERVED = ("worker", "admin", "alert", "alerts", "balancer", "service", "process", "nodes")


def tone(state: str) -> str:
    """"bad", "quiet", "good" or "other": what a state says."""
    return "bad" if state in BAD else "quiet" if state in QUIET else "good" if state in GOOD else "other"


def lapse(seconds: float) -> str:
    """A time for people: "3 min 20 s", "2 d 4 h"."""
    rest = max(0, round(seconds))
    if rest == 0:
        return "less than a second"
    words = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if rest >= size:
            words.append(f"{rest // size} {unit}")
        rest %= size
    return " ".join(words[:2])


class Event(NamedTuple):
    """Something that happened and that an operator may want to hear of.

    time is in seconds since 1970 (UTC). kind says what it is about ("server", "worker", "config", …), subject which
    one ("ns7/ns7c1"), before and after are states ("up", "down"), reason is one line for people. id is unique in
    this host's history and grows.
    """

    time: float
    kind: str
    subject: str
    before: str
    after: str
    reason: str
    id: str = ""


class Rights(NamedTuple):
    """What a process keeps, and may do.

    capabilities: names as in capabilities(7) without CAP_, e.g. "NET_ADMIN". verdicts: it alone says which servers can
    serve; at most one component has this.
    """

    capabilities: tuple[str, ...] = ()
    verdicts: bool = False


class Finding(NamedTuple):
    """Something that `ns7 doctor` found.

    what: one line; why: one sentence, what comes of it; fix: the command that mends it, as a root shell takes it.
    severity: one of `SEVERITIES`: queries fail or will at the next fault, less well than it could be, not to be seen.
    """

    what: str
    why: str
    fix: str
    severity: str = "warning"


class User(NamedTuple):
    """Who runs ns7 on this host, or would. capabilities: as in `Rights`; runs: it does now."""

    name: str
    uid: int
    gid: int
    capabilities: frozenset[str]
    runs: bool


class Held(NamedTuple):
    """An address that is on this host now. permanent: without an end to its life."""

    address: str
    length: int
    device: str
    permanent: bool


class Site(Protocol):
    """This host, as a check of `ns7 doctor` sees it. Methods block, and change nothing.

    config: the component's section (None: it is not there); the file as a whole for the core. floating: addresses that
    this or another host has.
    """

    @property
    def config(self) -> Any: ...
    @property
    def node(self) -> str: ...
    @property
    def roles(self) -> tuple[str, ...]: ...
    @property
    def services(self) -> tuple[Service, ...]: ...
    @property
    def floating(self) -> frozenset[str]: ...
    @property
    def user(self) -> User: ...

    def ask(self, verb: str) -> Any:
        """What the running ns7 answers; ControlError when none runs, or it refuses; Unseen when we may not ask."""

    def may_read(self, path: str) -> str:
        """Why `user` cannot read this file, "" when it can; Unseen when that cannot be told."""

    def held(self) -> tuple[Held, ...]:
        """Every address of this host."""

    def device(self, address: str) -> str:
        """The interface by which the kernel reaches an address, "" without a route."""

    def clock(self, server: str) -> float | None:
        """By how many seconds the clock of a name server ("192.0.2.1:53") is ahead of ours; None: it does not tell."""


class Check(NamedTuple):
    """One look of `ns7 doctor`: a row of a table.

    gather(site) collects facts in a thread of its own and may raise `Unseen`; after `seconds` it is given up, which is
    told. judge(facts) is pure. role: made only where the host does this, e.g. "balancer"; "": everywhere.
    """

    name: str
    gather: Callable[[Site], Any]
    judge: Callable[[Any], Iterable[Finding]]
    role: str = ""
    seconds: float = 3.0


@dataclass(frozen=True)
class Component:
    """One component. The strings are "module:name" and are imported only where they run.

    config: a pydantic model, the section of the file named like the component. wanted(section): whether a host whose
    file has this section (None: it has not) runs the process. rights: what the process keeps. spare: a second process
    stands ready, so a crash costs milliseconds. main: `async def main(host: Host)`. commands: `def commands(parser)`,
    adds the component's own verbs to `ns7`. floating: the addresses of a section that may be on another host now;
    such a component is started last and stopped first, while the workers still serve. directors: the hosts that share
    the floating ones, by their own addresses. status: `def status(snapshot) -> Mapping`, its part of the status.
    metrics: `def metrics(snapshot) -> Iterable[Metric]`. doctor: its table of `Check`s, made whether the section is
    there or not. samples: what `ns7 sample-config NAME` prints for other programs, by name, each a `def
    sample(section) -> str`; section None: there is no file to take it from.
    """

    name: str
    config: str
    main: str
    wanted: Callable[[Any], bool] = field(default=lambda section: section is not None)
    rights: Rights = field(default_factory=Rights)
    spare: bool = False
    floating: Callable[[Any], tuple[str, ...]] | None = None
    directors: Callable[[Any], tuple[str, ...]] | None = None
    commands: str = ""
    status: str = ""
    metrics: str = ""
    doctor: str = ""
    samples: Mapping[str, str] = field(default_factory=dict)


@cache
def components() -> dict[str, Component]:
    """Every installed component by its name; StartError for an entry point that is none."""
    from importlib import metadata

    found: dict[str, Component] = {}
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        try:
            record = entry.load()
        except Exception as error:          # whatever is wrong in somebody else's module
            raise StartError(f"component {entry.name} ({entry.value}) cannot be loaded: {error!r}") from error
        if not isinstance(record, Component) or record.name != entry.name:
            raise StartError(f"entry point {entry.name} = {entry.value} is not a component of that name")
        if record.name in RESERVED or found.setdefault(record.name, record) is not record:
            raise StartError(f"there is more than one process kind named {record.name}")
    return found


def resolve(name: str) -> Any:
    """What "module:name" names."""
    module, attribute = name.split(":")
    return getattr(import_module(module), attribute)


class Link(Protocol):
    """A process's side of its channel to the supervisor. Nothing here blocks; queues are bounded."""

    def emit(self, event: Event) -> None:
        """Tell what happened; the supervisor gives it an id and tells admin and alert."""

    def publish(self, snapshot: Mapping[str, Any]) -> None:
        """Leave the present state (plain data, at most 1 MiB as JSON) with the supervisor.

        It is given to the admin process, and to this process's successor, so totals never fall. "summary", where it
        is there, is a list of lines for people, which `ns7 status` prints as they are.
        """

    def serve(self, verb: str, handler: Callable[[Mapping[str, Any]], Any | Awaitable[Any]],
              state: Callable[[], str] | None = None) -> None:
        """Answer `ns7` requests "NAME.verb"; what the handler raises as Ns7Error is the caller's error.

        state: for a verb that changes something, a word or two of what it changes; when the handler has made it
        another one, an `AUDIT` event tells who asked.
        """

    async def request(self, kind: str, verb: str, arguments: Mapping[str, Any], timeout: float) -> Any:
        """Ask another process; ControlError when it refuses or is late.

        kind "" is the supervisor. Its verbs: "status"; "facts", the status without table and components; "listeners",
        the inodes of our listening sockets by address; "live", which gives the operator's live changes as one value,
        with the `version` [time, node] of the newest and a `digest`; "adopt", whose arguments are such a value of
        another director: what is newer in it counts here too, and the answer is ours afterwards.
        """

    def on_config(self, handler: Callable[[Any, tuple[Service, ...]], None]) -> None:
        """`handler(config, services)` is called when the file has changed, checked already."""

    def declare(self, standing: str) -> None:
        """Tell what this host is, one of `STANDINGS`: for the component that moves its floating addresses."""

    @property
    def orphaned(self) -> bool:
        """Whether the supervisor has ended without telling us to: the workers are ending too."""

    def on_standing(self, handler: Callable[[str], None]) -> None:
        """`handler(standing)` hears what this host is. Only alert is told."""

    def on_event(self, handler: Callable[[Event], None]) -> None:
        """`handler(event)` hears the events of this host. Only admin and alert are told."""

    def on_snapshot(self, handler: Callable[[str, Mapping[str, Any]], None]) -> None:
        """`handler(name, snapshot)` hears what others publish; name "" is the supervisor. Only admin is told."""

    def on_stop(self, handler: Callable[[], None]) -> None:
        """`handler()` is called once, when the process shall end; its main then returns soon."""

    def on_hand_over(self, handler: Callable[[], Mapping[str, Any]]) -> None:
        """`handler()` is called once in place of on_stop's, when the process of an upgraded ns7 stands ready.

        What it returns is published and is that process's `Host.snapshot`. main then returns at once and undoes
        nothing: what it holds outside of ns7, such as an address, is its successor's. Without it an upgrade stops the
        process like any other end, and the successor gets what was published last.
        """


class Server(NamedTuple):
    """A server as the configuration has it. address: "192.0.2.1:53" or "[2001:db8::1]:53"; source: "" for any."""

    name: str
    address: str
    weight: int
    source: str


class Service(NamedTuple):
    """A service as the configuration has it."""

    name: str
    listen: tuple[str, ...]
    servers: tuple[Server, ...]


@dataclass(frozen=True)
class Host:
    """What `main` is given.

    config: this process's own section, as its model (None when it has no section). services: what is balanced here.
    table: the server table, read-only. snapshot: what a predecessor published last ({} for the first). sockets: those
    its rights asked for, by name. clock: CLOCK_MONOTONIC in seconds. log: one line for the log, which may begin with
    WARNING and the like; events are logged as they are. state: a folder that survives restarts. verdicts: the table's
    verdicts to write, for who has the right to.
    """

    config: Any
    node: str
    services: tuple[Service, ...]
    table: TableView
    channel: Link
    snapshot: Mapping[str, Any]
    sockets: Mapping[str, socket.socket]
    clock: Callable[[], float]
    log: Callable[[str], None]
    state: str
    verdicts: Verdicts | None = None
