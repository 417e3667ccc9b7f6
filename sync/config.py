"""The section [sync]. Read by the sync process and by whoever loads the file."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, PlainValidator

from balancer.config.model import Section
from balancer.config.values import (
    ADDRESS,
    COMMAND,
    LISTEN,
    PATH,
    SERVER,
    Endpoint,
    Rule,
    choice,
    duration,
    whole,
)

# rsync takes what begins with "-" for an option.
_SOURCE = re.compile(r"rsync://[^-/\s][^\s]*/[^\s]*|(?!rsync:)(?:[\w.-]+@)?[\w.][\w.-]*::?[^:\s][^\s]*|/[^\s]*")
_ZONE = re.compile(r"[a-z0-9_./-]{1,254}")
LOCAL_ZONES = (".", "localhost", "127.in-addr.arpa", "0.in-addr.arpa", "255.in-addr.arpa")


def parse_source(value: Any) -> str:
    allowed = '"rsync://HOST/MODULE", "USER@HOST:/PATH" (ssh) or "/PATH"'
    if not isinstance(value, str) or len(value) > 1000 or _SOURCE.fullmatch(value) is None:
        raise ValueError(f"must be {allowed}")
    return value.rstrip("/")


def parse_marker(value: Any) -> str:
    allowed = "a file name, an absolute path, or empty"
    if not isinstance(value, str) or not value.isprintable() or len(value) > 1000 or value in (".", ".."):
        raise ValueError(f"must be {allowed}")
    if "/" in value and not value.startswith("/"):
        raise ValueError(f"must be {allowed}")
    return value


def parse_zone(value: Any) -> str:
    if not isinstance(value, str) or _ZONE.fullmatch(value.lower()) is None:
        raise ValueError('must be the name of a zone, such as "example.com"')
    return value.lower().rstrip(".") or "."


class Sync(Section):
    """Carries zones from the host where they are edited to the others."""

    publisher: Annotated[str, PlainValidator(ADDRESS)] = Field(
        description="Address of the host where zones are edited.", examples=["192.0.2.88"])
    pullers: tuple[Annotated[Endpoint, PlainValidator(LISTEN)], ...] = Field(
        default=(), max_length=64, examples=[["192.0.2.89:8053"]],
        description="Where the hosts that take over the zones hear the publisher's NOTIFY; not port 53, which is "
        "named's.")
    tsig_key_file: Annotated[str, PlainValidator(PATH)] = Field(
        description="File with the key that publisher and pullers share, as `tsig-keygen` writes it. It signs NOTIFYs "
        "and manifests.", examples=["/etc/ns7/sync.key"])
    role: Annotated[str, PlainValidator(choice("auto", "publish", "pull"))] = Field(
        default="auto", description="What this host does; auto: by which of the addresses above is its own.")
    listen: Annotated[Endpoint | None, PlainValidator(LISTEN)] = Field(
        default=None, validate_default=False, examples=["192.0.2.89:8053"],
        description="Where this puller hears NOTIFYs; unset = the entry of pullers that is an address of this host.")
    source: Annotated[str | None, PlainValidator(Rule("what rsync calls a source", parse_source))] = Field(
        default=None, validate_default=False, examples=["rsync://192.0.2.88/ns7"],
        description="What pullers copy from: the publisher's store; unset = the module ns7 of the publisher's rsyncd.")
    store: Annotated[str, PlainValidator(PATH)] = Field(
        default="/var/lib/bind/ns7",
        description="Folder for the generations of zones; named must be able to read it (AppArmor, too), ns7 to write "
        "it.")
    keep: Annotated[int, PlainValidator(whole(2, 1000))] = Field(
        default=5, description="Generations kept, to go back to.")
    named_conf: Annotated[str, PlainValidator(PATH)] = Field(
        default="/etc/bind/named.conf", description="The file that this host's named is started with.")
    named: Annotated[Endpoint, PlainValidator(SERVER)] = Field(
        default="127.0.0.1:53", validate_default=True, description="Where this host's named answers.")
    reload: Annotated[str, PlainValidator(choice("rndc", "hup"))] = Field(
        default="rndc", description="How named is told: rndc, or SIGHUP (then ns7 must run as named's user).")
    rndc: Annotated[tuple[str, ...], PlainValidator(COMMAND)] = Field(
        default=("/usr/sbin/rndc",), min_length=1, description="The command rndc with its options.")
    pid_file: Annotated[str, PlainValidator(PATH)] = Field(
        default="/run/named/named.pid", description="Where named writes its pid, for SIGHUP.")
    rsync: Annotated[tuple[str, ...], PlainValidator(COMMAND)] = Field(
        default=("/usr/bin/rsync",), min_length=1,
        description='The command rsync with options, such as "-e", "ssh -i /etc/ns7/sync.id -o BatchMode=yes".')
    marker: Annotated[str, PlainValidator(Rule("a file name, an absolute path, or empty", parse_marker))] = Field(
        default="null", description="File that the publisher writes anew with each generation, for pullers of the old "
        "kind; a name is below named's directory. Empty = none.")
    exclude: tuple[Annotated[str, PlainValidator(Rule("names of zones", parse_zone))], ...] = Field(
        default=LOCAL_ZONES, description="Zones that every host has its own of.")
    poll: Annotated[float, PlainValidator(duration("1s", "24h"))] = Field(
        default="60s", validate_default=True, description="A puller looks at least so often, NOTIFY or not.")
    max_lag: Annotated[float, PlainValidator(duration("1s", "168h"))] = Field(
        default="5m", validate_default=True, description="A puller that is behind for longer is alerted.")
    shrink_max: Annotated[int, PlainValidator(whole(1, 100))] = Field(
        default=50, description="Percent of the zones, or of the records of a zone, that may vanish in one step; more "
        "needs --force. 100 = anything may.")
    timeout: Annotated[float, PlainValidator(duration("1s", "1h"))] = Field(
        default="60s", validate_default=True,
        description="rsync, rndc and the checks are ended when one of them takes longer.")
    serve_timeout: Annotated[float, PlainValidator(duration("1s", "10m"))] = Field(
        default="10s", validate_default=True, description="How long named may take to serve what it was told to load.")

    @property
    def from_where(self) -> str:
        """The source that pullers use."""
        host = f"[{self.publisher}]" if ":" in self.publisher else self.publisher
        return self.source or f"rsync://{host}/ns7"
