"""Every setting of ns7, declared once: type, default, range, description. Read by whoever loads the file.

Checks, sample file and reference come from here. Defaults are written as the operator would write them.
"""

from __future__ import annotations

from functools import cache
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, PrivateAttr, create_model

from balancer.component import components, resolve
from balancer.config.values import (
    ADDRESS,
    COMMAND,
    LISTEN,
    MAIL_ADDRESS,
    MAIL_SERVER,
    NAME,
    PATH,
    PREFIX,
    SERVER,
    SOCKET_PATH,
    TEXT,
    Endpoint,
    MailServer,
    auto_or,
    choice,
    duration,
    size,
    whole,
)

SERVICES_MAX = 64
SERVER_STATES = ("auto", "up", "down", "drained")
WHEN_ALL_DOWN = ("try-all", "servfail", "drop")
LOG_FORMATS = ("plain", "json")
RETRY_RCODES = {"FORMERR": 1, "SERVFAIL": 2, "NXDOMAIN": 3, "NOTIMP": 4, "REFUSED": 5, "NOTAUTH": 9}
SERVERS_MAX = 256
ROLES = ("balancer", *sorted(components()))

Name = Annotated[str, PlainValidator(NAME)]
Listen = Annotated[Endpoint, PlainValidator(LISTEN)]
Role = Annotated[str, PlainValidator(choice(*ROLES))]
Prefixes = tuple[Annotated[IPv4Network | IPv6Network, PlainValidator(PREFIX)], ...]


class Section(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Server(Section):
    """A DNS server that queries are sent to."""

    name: Name = Field(
        description="Name of the server in status, metrics and log; unique in its service.",
        examples=["ns7c1", "ns7c2"])
    address: Annotated[Endpoint, PlainValidator(SERVER)] = Field(
        description="Where the server answers.", examples=["192.0.2.88:53", "192.0.2.89:53"])
    weight: Annotated[int, PlainValidator(whole(0, 65535))] = Field(
        default=1,
        description="Share of the queries, relative to the other servers; 0 = drained, gets no new queries.")
    state: Annotated[str, PlainValidator(choice(*SERVER_STATES))] = Field(
        default="auto",
        description="auto: health and what is seen decide; up, down: whatever they say; drained: gets no new queries.")
    source: Annotated[str | None, PlainValidator(ADDRESS)] = Field(
        default=None, validate_default=False, examples=["192.0.2.87"],
        description="Address to send from, of the server address's family, never a floating one; unset = the kernel "
        "chooses.")
    sockets: Annotated[int, PlainValidator(whole(0, 64))] = Field(
        default=0,
        description="Sockets per worker towards this server, each with its own random port; 0 = automatic.")
    tcp_connections: Annotated[int, PlainValidator(whole(1, 10_000))] = Field(
        default=100,
        description="TCP connections to this server, of all workers together; below what the server itself allows "
        "(stock BIND: 150).")


class Admit(Section):
    """Which clients may send what. Other queries are dropped; other transfers, updates, NOTIFYs: REFUSED."""

    query: Prefixes = Field(
        default=("0.0.0.0/0", "::/0"), validate_default=True,
        description="Clients whose plain queries are forwarded.")
    transfer: Prefixes = Field(
        default=(), validate_default=True,
        description="Clients whose zone transfers (AXFR, IXFR) are forwarded.")
    update: Prefixes = Field(
        default=(), validate_default=True, description="Clients whose dynamic updates are forwarded.")
    notify: Prefixes = Field(
        default=(), validate_default=True, description="Hosts whose NOTIFY messages are forwarded.")


class Service(Section):
    """Addresses to listen on and the servers behind them."""

    name: Name = Field(
        description="Name of the service in status, metrics and log; unique.", examples=["ns7"])
    listen: tuple[Listen, ...] = Field(
        min_length=1, description="Where clients send their queries.", examples=[["192.0.2.90:53"]])
    scheduler: Annotated[str, PlainValidator(choice("wlc", "lc", "wrr", "rr", "sh"))] = Field(
        default="wlc",
        description="Who gets the next query: (weighted) least outstanding, (weighted) round robin, "
        "or by the client's address.")
    udp_timeout: Annotated[float, PlainValidator(duration("50ms", "60s"))] = Field(
        default="2s", validate_default=True, description="How long an answer of a server is waited for.")
    slow_start: Annotated[float, PlainValidator(duration("0s", "10m"))] = Field(
        default="10s", validate_default=True,
        description="Time in which a server that was added or undrained grows into its weight (wlc, wrr); 0s: none.")
    primary: Annotated[str | None, PlainValidator(NAME)] = Field(
        default=None, validate_default=False, examples=["ns7c1"],
        description="Name of the server that alone gets SOA, AXFR, IXFR, NOTIFY and UPDATE; unset = none does. While "
        "it is not up the others get SOA, AXFR and IXFR, and UPDATE and NOTIFY fail.")
    tcp_timeout: Annotated[float, PlainValidator(duration("50ms", "60s"))] = Field(
        default="2s", validate_default=True,
        description="How long an answer of one server is waited for over TCP; then another is asked, once.")
    tcp_idle: Annotated[float, PlainValidator(duration("100ms", "1h"))] = Field(
        default="30s", validate_default=True,
        description="How long a client's TCP connection may be idle, or a client leave its answers unread.")
    tcp_message_time: Annotated[float, PlainValidator(duration("100ms", "1h"))] = Field(
        default="5s", validate_default=True, description="How long a client may take to send one message over TCP.")
    tcp_message_reads: Annotated[int, PlainValidator(whole(2, 65536))] = Field(
        default=200, description="In how many pieces one message may come over TCP.")
    tcp_connections_max: Annotated[int, PlainValidator(whole(1, 1_000_000))] = Field(
        default=20_000,
        description="TCP connections of clients in all; from seven eighths on the longest idle ones are closed.")
    tcp_per_client: Annotated[int, PlainValidator(whole(1, 1_000_000))] = Field(
        default=100,
        description="TCP connections of one client address (IPv6: of one /64); counted by each worker for its part.")
    tcp_queries: Annotated[int, PlainValidator(whole(0, 1_000_000_000))] = Field(
        default=0, description="Queries on one TCP connection, after which it is closed; 0 = no limit.")
    tcp_lifetime: Annotated[float, PlainValidator(duration("0s", "24h"))] = Field(
        default="1h", validate_default=True,
        description="How long a client's TCP connection may last; transfers may last longer. \"0s\" = no limit.")
    retry: Annotated[str, PlainValidator(choice("on", "off"))] = Field(
        default="on", description="Whether a query that a server refuses, or does not answer soon, goes to another.")
    retry_after: Annotated[float, PlainValidator(auto_or(duration("1ms", "10s")))] = Field(
        default="auto", validate_default=True,
        description="How long one server is waited for before another is asked too; auto: by its round-trip times.")
    retry_budget: Annotated[int, PlainValidator(whole(0, 100))] = Field(
        default=10, description="Percent of the queries, and 100 per second, that may be sent twice for slowness.")
    retry_rcodes: tuple[Annotated[str, PlainValidator(choice(*RETRY_RCODES))], ...] = Field(
        default=("SERVFAIL", "REFUSED"),
        description="Answers that are not believed before another server was asked, for 2 percent of the queries and "
        "10 per second: a server that lost its zones answers fastest. An empty list = none.")
    suspend: Annotated[str, PlainValidator(choice("on", "off"))] = Field(
        default="on", description="Whether a server that refuses, or is silent while others answer, is passed over.")
    min_alive: Annotated[int, PlainValidator(whole(1, 256))] = Field(
        default=1, description="With fewer servers that are trusted, all are tried.")
    when_all_down: Annotated[str, PlainValidator(choice(*WHEN_ALL_DOWN))] = Field(
        default="try-all", description="Nobody is trusted: try everybody until udp_timeout, say SERVFAIL, or nothing.")
    admit: Admit = Field(default=Admit(), description="Which clients may send what.")
    servers: tuple[Server, ...] = Field(
        alias="server", min_length=1, max_length=SERVERS_MAX, description="The servers behind this service.")


class Process(Section):
    """The processes of this host."""

    workers: Annotated[int, PlainValidator(whole(0, 64))] = Field(
        default=0, description="Worker processes; 0 = one per core.")
    worker_timeout: Annotated[float, PlainValidator(duration("200ms", "60s"))] = Field(
        default="1s", validate_default=True,
        description="A worker that shows no sign of life for so long is replaced; its queries are not lost.")
    upgrade_grace: Annotated[float, PlainValidator(duration("0s", "1h"))] = Field(
        default="30s", validate_default=True,
        description="How long workers that an upgrade or a reload has replaced go on with TCP connections in use.")
    state_dir: Annotated[str, PlainValidator(PATH)] = Field(
        default="/var/lib/ns7", description="Folder for what must survive a restart, such as alerts not yet told.")
    log: Annotated[str, PlainValidator(choice(*LOG_FORMATS))] = Field(
        default="plain", description="How lines are written to standard error: plain, or as one JSON object each.")
    udp_buffer: Annotated[int, PlainValidator(size("64KiB", "1GiB"))] = Field(
        default="16MiB", validate_default=True,
        description="Receive and send buffer asked for each UDP socket.")
    inflight_max: Annotated[int, PlainValidator(whole(64, 1_000_000))] = Field(
        default=65536, description="Queries one worker may have outstanding; more are dropped.")


class Admin(Section):
    """How this host's ns7 is operated and looked at."""

    listen: tuple[Listen, ...] = Field(
        default=("127.0.0.1:8053",), validate_default=True,
        description="Where the status, the events and the metrics are served over HTTP; an empty list = nowhere.")
    allow: Prefixes = Field(
        default=("127.0.0.0/8", "::1/128"), validate_default=True,
        description="Clients that may read them; others get 403.")
    socket: Annotated[str, PlainValidator(SOCKET_PATH)] = Field(
        default="/run/ns7/control.sock",
        description="Control socket; its file permissions (0660) are the access control.")
    socket_group: Annotated[str | None, PlainValidator(TEXT)] = Field(
        default=None, validate_default=False, examples=["adm"],
        description="Group whose members may use the control socket; unset = the group ns7 runs as.")


class Alerts(Section):
    """Who is told when something happens on this host, and how. Without recipients and command: the log only."""

    mail_to: tuple[Annotated[str, PlainValidator(MAIL_ADDRESS)], ...] = Field(
        default=(), max_length=32, description="Who gets mail.")
    mail_from: Annotated[str | None, PlainValidator(MAIL_ADDRESS)] = Field(
        default=None, validate_default=False, examples=["ns7@example.com"],
        description="Address that mail comes from; unset = ns7@ and the name of this host.")
    smtp: Annotated[MailServer, PlainValidator(MAIL_SERVER)] = Field(
        default="127.0.0.1:25", validate_default=True, description="Mail server.")
    smtp_tls: Annotated[str, PlainValidator(choice("none", "starttls", "tls"))] = Field(
        default="none",
        description="Encryption toward the mail server: none, STARTTLS (no mail without it), TLS from the first byte. "
        "The certificate is checked.")
    smtp_ca_file: Annotated[str | None, PlainValidator(PATH)] = Field(
        default=None, validate_default=False, examples=["/etc/ns7/mail-ca.pem"],
        description="Certificates (PEM) that may sign the mail server's; unset = those this system trusts.")
    smtp_user: Annotated[str | None, PlainValidator(TEXT)] = Field(
        default=None, validate_default=False, examples=["ns7"],
        description="Name to log in with at the mail server; unset = no login.")
    smtp_password_file: Annotated[str | None, PlainValidator(PATH)] = Field(
        default=None, validate_default=False, examples=["/etc/ns7/smtp.password"],
        description="File with the password to log in with.")
    command: Annotated[tuple[str, ...], PlainValidator(COMMAND)] = Field(
        default=(),
        description="Program to start for each message, without a shell; its environment has the facts (NS7_ALERT_…).")
    command_timeout: Annotated[float, PlainValidator(duration("100ms", "10m"))] = Field(
        default="10s", validate_default=True, description="The command is killed when it takes longer.")
    group: Annotated[float, PlainValidator(duration("0s", "1m"))] = Field(
        default="2s", validate_default=True,
        description="What happens within this time after a first event is one message.")
    repeat: Annotated[float, PlainValidator(duration("1m", "168h"))] = Field(
        default="1h", validate_default=True,
        description="An open alert is told again so often, until it ends or `ns7 alert ack`.")
    flap_changes: Annotated[int, PlainValidator(whole(2, 1000))] = Field(
        default=6, description="Changes of one subject told within flap_period; with one more it counts as flapping.")
    flap_period: Annotated[float, PlainValidator(duration("1s", "24h"))] = Field(
        default="10m", validate_default=True,
        description="A flapping subject that did not change for so long is calm again.")


class Node(Section):
    """A host, where one file describes several; any other section in it overrides the file's own."""

    roles: tuple[Role, ...] = Field(
        default=ROLES, min_length=1, description="What this host does.")


class Config(Section):
    """The file as it applies to one host."""

    services: tuple[Service, ...] = Field(
        alias="service", default=(), max_length=SERVICES_MAX,
        description="What is balanced; none on a host that only runs components.")
    process: Process = Field(default=Process(), description="The processes of this host.")
    admin: Admin = Field(default=Admin(), description="How this host's ns7 is operated and looked at.")
    alerts: Alerts = Field(default=Alerts(), description="Who is told when something happens on this host.")

    # Not settings of the file's top level: filled in by load().
    _node: str = PrivateAttr("")
    _roles: tuple[str, ...] = PrivateAttr(ROLES)
    _document: dict[str, Any] = PrivateAttr(default_factory=dict)
    _fingerprint: str = PrivateAttr("")

    @property
    def node(self) -> str:
        return self._node

    @property
    def roles(self) -> tuple[str, ...]:
        """What this host does: of what it may do, that which the file has something to do for."""
        known = components()
        return tuple(role for role in self._roles
                     if (known[role].wanted(getattr(self, role, None)) if role in known else bool(self.services)))

    @property
    def fingerprint(self) -> str:
        """Tells this file from another one; the same for all hosts that it describes, whatever its comments."""
        return self._fingerprint

    @property
    def floating(self) -> frozenset[str]:
        """Addresses that may be on this host or another one, as the components that move them have it."""
        found: set[str] = set()
        for name, record in components().items():
            section = getattr(self, name, None)
            if record.floating is not None and name in self.roles and record.wanted(section):
                found.update(record.floating(section))
        return frozenset(found)

    @property
    def document(self) -> dict[str, Any]:
        """The file as TOML gives it, for this host; not to be altered."""
        return self._document

    def section(self, name: str) -> Any:
        """A section as it stands in the file, for a process that makes its own model of it; None: it is not there."""
        return self._document.get(name)


@cache
def file_model() -> type[Config]:
    """The file's model: with a section for each installed component, whose models import this module."""
    sections: dict[str, Any] = {}
    for name, record in sorted(components().items()):
        section = resolve(record.config)
        sections[name] = (section | None, Field(default=None, description=section.__doc__))
    return create_model("Config", __base__=Config, **sections) if sections else Config
