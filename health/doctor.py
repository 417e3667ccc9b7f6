"""`ns7 doctor` for the servers: a handful of questions to each. Runs in the command, also without [health].

Whatever a server says is hostile input: what cannot be read counts as no answer.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

from balancer.component import Check, Finding, Server
from balancer.config.values import SERVER
from health import zones
from health.findings import (
    Answers,
    Cookies,
    Zones,
    comparable,
    judge_answers,
    judge_clocks,
    judge_cookies,
    judge_zones,
)

if TYPE_CHECKING:
    from balancer.component import Site

PATIENCE, TRIES = 0.7, 2
AT_ONCE, MOST_SERVERS = 64, 256
ROUNDS, PAUSE = 7, 0.3          # of questions for cookies: clocks two seconds apart can still be compared


def wanted_zones(site: Site) -> Zones:
    config = site.config
    if config is None:
        return Zones("", "", True)
    unreadable = site.may_read(config.zones_from) if config.zones_from else ""
    return Zones(config.zones_from or "", unreadable, bool(config.zones or config.zones_from or config.checks))


def answers(site: Site) -> tuple[Answers, ...]:
    zone = _zone(site)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return tuple(pool.map(lambda server: _ask(server, zone), _servers(site)))


def _servers(site: Site) -> list[Server]:
    """Each server once."""
    found = {server.address: server for service in site.services for server in service.servers}
    return list(islice(found.values(), MOST_SERVERS))


def _zone(site: Site) -> str:
    """A zone that the servers should have, "" when none is known."""
    config = site.config
    if config is None:
        return ""
    if config.zones:
        return str(config.zones[0])
    with contextlib.suppress(OSError, ValueError):
        return next(iter(zones.read(config.zones_from).zones), "") if config.zones_from else ""
    return ""


def _ask(server: Server, zone: str) -> Answers:
    host, port = SERVER(server.address)
    query = dns.message.make_query(zone or ".", "SOA", use_edns=0, payload=1232)        # with RD, for RA
    source, recursive, udp, tcp = server.source or None, False, "", ""
    for _ in range(TRIES):
        try:
            reply = _exchange(server, query)
            recursive, udp = bool(reply.flags & dns.flags.RA), ""
            break
        except (dns.exception.DNSException, OSError, ValueError) as error:
            udp = _reason(error)
    try:
        reply = dns.query.tcp(query, host, PATIENCE, port, source, ignore_trailing=True)
        recursive = recursive or bool(reply.flags & dns.flags.RA)
    except (dns.exception.DNSException, OSError, ValueError, EOFError) as error:
        tcp = _reason(error)
    transfers = _transfers(server, zone) if zone and not tcp else None
    return Answers(server.name, server.address, udp, tcp, recursive, transfers, zone)


def _exchange(server: Server, query: dns.message.Message) -> dns.message.Message:
    """An answer over UDP. The socket is connected, so a refusal is heard at once."""
    host, port = SERVER(server.address)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.setblocking(False)
        if server.source:
            one.bind((server.source, 0))
        one.connect((host, port))
        return dns.query.udp(query, host, PATIENCE, port, sock=one, ignore_trailing=True, ignore_unexpected=True)


def _reason(error: Exception) -> str:
    if isinstance(error, dns.exception.Timeout):
        return "no answer"
    return error.strerror or str(error) if isinstance(error, OSError) else f"no DNS message: {type(error).__name__}"


def _transfers(server: Server, zone: str) -> bool | None:
    """Whether the zone is given to who asks from here: its first message says so, the rest is not read."""
    query = dns.message.make_query(zone, "AXFR")
    host, port = SERVER(server.address)
    try:
        with socket.create_connection((host, port), PATIENCE, (server.source, 0) if server.source else None) as one:
            end = time.monotonic() + PATIENCE
            data = query.to_wire()
            one.sendall(struct.pack("!H", len(data)) + data)
            (length,) = struct.unpack("!H", _read(one, 2, end))
            reply = dns.message.from_wire(_read(one, length, end), ignore_trailing=True, one_rr_per_rrset=True)
    except (dns.exception.DNSException, OSError, ValueError):
        return False                            # named closes the connection, or says REFUSED
    return reply.rcode() == dns.rcode.NOERROR and any(one.rdtype == dns.rdatatype.SOA for one in reply.answer)


def _read(one: socket.socket, length: int, end: float) -> bytes:
    data = b""
    while len(data) < length:
        one.settimeout(max(0.001, end - time.monotonic()))
        piece = one.recv(length - len(data))
        if not piece:
            raise OSError("closed")
        data += piece
    return data


def cookies(site: Site) -> tuple[Cookies, ...]:
    """For each service: what its servers make of one client cookie, until they can be compared."""
    client = secrets.token_bytes(8)
    services = [service.servers[:AT_ONCE] for service in site.services if len(service.servers) > 1]
    found: list[dict[str, tuple[bytes, ...]]] = [{} for _ in services]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number in range(ROUNDS):
            if number:
                time.sleep(PAUSE)
            for servers, known in zip(services, found, strict=True):
                if number == 0 or not comparable(known):
                    said = pool.map(lambda server: _cookie(server, client), servers)
                    for server, cookie in zip(servers, said, strict=True):
                        if cookie is not None:
                            known[server.name] = known.get(server.name, ()) + ((cookie,) if cookie else ())
            if all(map(comparable, found)):
                break
    return tuple(found)


def _cookie(server: Server, client: bytes) -> bytes | None:
    """The server's cookie, b"" when it answers without; None when it does not answer."""
    query = dns.message.make_query(".", "SOA", use_edns=0, payload=1232, flags=0,
                                   options=[dns.edns.GenericOption(dns.edns.OptionType.COOKIE, client)])
    try:
        reply = _exchange(server, query)
    except (dns.exception.DNSException, OSError, ValueError):
        return None
    for option in reply.options:
        if option.otype == dns.edns.OptionType.COOKIE:
            data = option.to_wire() or b""
            return data[8:] if data[:8] == client and 16 <= len(data) <= 40 else b""
    return b""


def _judge_each(facts: tuple[Cookies, ...]) -> Iterator[Finding]:
    for service in facts:
        yield from judge_cookies(service)


def clocks(site: Site) -> tuple[tuple[str, float], ...]:
    servers = _servers(site)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ahead = pool.map(lambda server: site.clock(server.address), servers)
        return tuple((server.name, each) for server, each in zip(servers, ahead, strict=True) if each is not None)


CHECKS = (
    Check("zones", wanted_zones, judge_zones),
    Check("servers", answers, judge_answers, "balancer", 4.0),
    Check("cookies", cookies, _judge_each, "balancer", 4.0),
    Check("clock", clocks, judge_clocks, "balancer"),
)
