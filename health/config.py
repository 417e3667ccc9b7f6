"""The section [health] of the configuration file."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, PlainValidator

from balancer.config.model import Section
from balancer.config.values import NAME, PATH, SERVER, Endpoint, Rule, choice, duration, whole

_DOMAIN = re.compile(r"(?:[A-Za-z0-9_*/-]{1,63}\.)*[A-Za-z0-9_*/-]{1,63}\.?")
_TYPE = re.compile(r"[A-Z][A-Z0-9-]{0,31}")
_RCODES = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED")


def parse_domain(value: Any) -> str:
    allowed = 'a domain name, such as "example.com"'
    if not isinstance(value, str) or (value != "." and not _DOMAIN.fullmatch(value)) or len(value) > 254:
        raise ValueError(f"must be {allowed}")
    return value if value == "." else value.rstrip(".").lower()


def parse_type(value: Any) -> str:
    if not isinstance(value, str) or not _TYPE.fullmatch(value):
        raise ValueError('must be a record type, such as "A"')
    return value


def parse_texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(
            isinstance(each, str) and 1 <= len(each) <= 1000 for each in value):
        raise ValueError('must be a list of records\' data, such as ["192.0.2.1"]')
    return tuple(value)


def parse_master(value: Any) -> str | Endpoint:
    """The name of a server, or where it is."""
    try:
        endpoint: Endpoint = SERVER(value)
        return endpoint
    except ValueError:
        pass
    try:
        name: str = NAME(value)
        return name
    except ValueError:
        raise ValueError('must be the name of a server, or "ADDRESS:PORT"') from None


DOMAIN = Rule("a domain name", parse_domain)
Domain = Annotated[str, PlainValidator(DOMAIN)]


class Check(Section):
    """One more thing that every server must answer."""

    name: Domain = Field(description="Name that is asked for.", examples=["www.example.com"])
    type: Annotated[str, PlainValidator(Rule("a record type", parse_type))] = Field(
        default="A", description="Record type that is asked for.")
    rcode: Annotated[str, PlainValidator(choice(*_RCODES))] = Field(
        default="NOERROR", description="What the answer must say.")
    answers: Annotated[tuple[str, ...], PlainValidator(Rule("records' data as zone files write it", parse_texts))] = (
        Field(default=(), description="Records that must all be in the answer; empty: any will do."))


class Health(Section):
    """How this host finds out which servers can serve. Without this section all of them count as up."""

    zones: tuple[Domain, ...] = Field(
        default=(), max_length=100, examples=[["example.com"]],
        description="Zones whose SOA each server must answer with authority, all of them in each probe. Without zones "
        "and checks any answer will do.")
    zones_from: Annotated[str | None, PlainValidator(PATH)] = Field(
        default=None, validate_default=False, examples=["/etc/bind/named.conf"],
        description="A named.conf, or a manifest of sync: its zones are asked for too, one per probe in rotation.")
    master: Annotated[str | Endpoint | None, PlainValidator(Rule("a server's name, or where it is", parse_master))] = (
        Field(default=None, validate_default=False, examples=["ns7c1"],
              description="Where zones are edited: its serials are what the others' should be. Unset: not compared."))
    interval: Annotated[float, PlainValidator(duration("100ms", "1h"))] = Field(
        default="1s", validate_default=True, description="Time between two probes of a server.")
    timeout: Annotated[float, PlainValidator(duration("10ms", "60s"))] = Field(
        default="500ms", validate_default=True, description="How long an answer to a probe is waited for.")
    fast_interval: Annotated[float, PlainValidator(duration("10ms", "60s"))] = Field(
        default="200ms", validate_default=True,
        description="Time between a failed probe and the next, until the server is down.")
    fall: Annotated[int, PlainValidator(whole(1, 100))] = Field(
        default=3, description="Failures in a row that take a server out.")
    rise: Annotated[int, PlainValidator(whole(1, 100))] = Field(
        default=2, description="Answers in a row that bring it back.")
    flap_period: Annotated[float, PlainValidator(duration("0s", "24h"))] = Field(
        default="10m", validate_default=True,
        description="Each further time that a server falls within this period doubles the answers that bring it back, "
        "up to 16 times; \"0s\": no damping.")
    stale_after: Annotated[float, PlainValidator(duration("0s", "168h"))] = Field(
        default="5m", validate_default=True, description="How long a zone may be behind the master before an alert.")
    stale_is_down: Annotated[str, PlainValidator(choice("on", "off"))] = Field(
        default="off", description="Whether a server with such a zone is taken out.")
    recursion_check: Annotated[str, PlainValidator(choice("on", "off"))] = Field(
        default="on", description="Whether to look each minute if a server resolves foreign names for us, and alert.")
    checks: tuple[Check, ...] = Field(
        default=(), alias="check", max_length=100, description="What else every server must answer.")
