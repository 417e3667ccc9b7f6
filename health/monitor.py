"""`ns7 monitor`: what mon's dns.monitor (Debian package mon 1.3) checks, prints and returns; servers asked in parallel.

Zones with -master: the SOA of each master, then of each server; it must have authority, be one record, and its serial
no further than -serial_threshold from the highest of the masters. Queries with -caching_only: there must be an answer,
and of NAME:TYPE:OTHER one that OTHER, asked at the same server, has too.

Exit code: 0, nothing printed; else the largest number of servers that failed in one zone or query; 251: no master of a
zone could be asked (or, with -failsingle, one could not); 252: the masters' serials are apart. Differences from the
original, each an improvement, stand in docs/health.md.
"""

from __future__ import annotations

import argparse
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdatatype

from health.serial import distance

ALL_MASTERS, MASTERS_APART = 251, 252
TCP_PATIENCE = 10.0             # seconds, unless -timeout says otherwise
MOST_AT_ONCE = 256


class Answer(NamedTuple):
    """What a server said: error is "" or the words of the original for why there is no answer to use."""

    error: str
    authoritative: bool = False
    records: tuple[dns.rdata.Rdata, ...] = ()

    @property
    def serial(self) -> int | None:
        """Of the one SOA record that this answer is; None when it is anything else."""
        if len(self.records) == 1 and self.records[0].rdtype == dns.rdatatype.SOA:
            return int(self.records[0].serial)          # type: ignore[attr-defined]
        return None


class Failure(NamedTuple):
    """One zone or query that failed. failed: what it adds to the exit code."""

    summary: str
    hosts: tuple[str, ...]
    detail: str
    failed: int


class How(NamedTuple):
    """How servers are asked."""

    port: int
    tcp: bool
    recursion: bool
    retry: int
    retransmit: float
    timeout: float | None


Ask = Callable[[str, str, str], Answer]         # server, name, type


def monitor(arguments: argparse.Namespace) -> tuple[int, str]:
    """The exit code and all that is to be printed."""
    caching = arguments.caching_only
    how = How(arguments.port, arguments.tcp and not caching, caching, max(1, arguments.retry), arguments.retransmit,
              arguments.timeout)
    if caching:
        queries = [(*query.split(":", 2), "", "")[:3] for query in arguments.query]
        wanted = {(server, name, kind or "A") for server in arguments.server for query, kind, other in queries
                  for name in (query, other) if name}
    else:
        wanted = {(server, zone, "SOA") for server in (*arguments.master, *arguments.server)
                  for zone in arguments.zone}
    ask = _all(wanted, how).__getitem__
    if caching:
        failures = [found for name, kind, other in queries
                    if (found := _check_query(name, kind or "A", other, arguments.server, lambda *key: ask(key)))]
    else:
        failures = [found for zone in arguments.zone if (found := check_zone(
            zone, arguments.master, arguments.server, arguments.serial_threshold, arguments.failsingle,
            lambda *key: ask(key)))]
    if not failures:
        return 0, ""
    return max(failure.failed for failure in failures), text(failures, arguments.summary, "" if caching else "zone")


def text(failures: Sequence[Failure], style: str, subject: str) -> str:
    """What is printed: a line that says it all, then one paragraph per failure."""
    if style == "hosts":
        lines = [" ".join(dict.fromkeys(host for failure in failures for host in failure.hosts))]
    else:
        lines = ["".join(f"{failure.summary} " for failure in failures)]
    for failure in failures:
        lines += [*failure.detail.split("\n"), ""]
    return "\n".join(lines)


def check_zone(zone: str, masters: Sequence[str], servers: Sequence[str], threshold: int, failsingle: bool,
               ask: Ask) -> Failure | None:
    """One zone; None when all is well."""
    def failed(hosts: Iterable[str], detail: str, count: int) -> Failure:
        hosts = tuple(hosts)
        named = " ".join(hosts)
        return Failure(f"{named}({zone})", hosts, f"Zone '{zone}': failed servers: {named}\n{detail}", count)

    serials: dict[str, int] = {}
    reasons = []
    for master in masters:
        answer = ask(master, zone, "SOA")
        reason = _master_fault(master, zone, answer)
        if not reason:
            assert answer.serial is not None
            serials[master] = answer.serial
        elif failsingle:
            return failed((master,), reason, ALL_MASTERS)
        else:
            reasons.append(reason)
    if not serials:
        return failed((), "\n".join(reasons), ALL_MASTERS)
    newest = next(iter(serials.values()))
    for serial in serials.values():
        newest = serial if distance(newest, serial) > 0 else newest
    master, oldest = min(serials.items(), key=lambda pair: distance(newest, pair[1]))
    if -distance(newest, oldest) > threshold:
        return failed((master,), f"\nQuery to {master} about {zone} failed\n"
                      f"Serial number = {oldest}, should have been {newest}", MASTERS_APART)
    bad, details = [], []
    for server in servers:
        answer = ask(server, zone, "SOA")
        if answer.error:
            details.append(_no_answer("SOA", zone, server, answer))
        elif (not answer.authoritative or answer.serial is None
              or abs(distance(newest, answer.serial)) > threshold):
            shown = next((str(record.serial) for record in answer.records       # type: ignore[attr-defined]
                          if record.rdtype == dns.rdatatype.SOA), "")
            details.append(
                f"\nQuery to {server} about {zone} failed\nAuthoritative = {'yes' if answer.authoritative else 'no'}\n"
                f"Answer count = {len(answer.records)}\n"
                f"Answer Type = {dns.rdatatype.to_text(answer.records[0].rdtype)}\n"
                f"Serial number = {shown}, should have been {newest}")
        else:
            continue
        bad.append(server)
    return failed(bad, "\n".join(details), len(bad)) if bad else None


def _master_fault(master: str, zone: str, answer: Answer) -> str:
    if answer.error:
        return _no_answer("SOA", zone, master, answer).lstrip("\n")
    if not answer.authoritative:
        return f"{master} is not authoritative for {zone}"
    if len(answer.records) != 1:
        return f"Too many answers for SOA query to {master} for {zone}"
    if answer.serial is None:
        return (f"Query for SOA for {zone} from {master} failed: "
                f"return type = {dns.rdatatype.to_text(answer.records[0].rdtype)}")
    return ""


def _no_answer(kind: str, name: str, server: str, answer: Answer) -> str:
    empty = "\n    Empty answer received.  (No zone on server?)" if answer.error == "NOERROR" and kind == "SOA" else ""
    return f"\n{kind} query for {name} from {server} failed {answer.error}{empty}"


def _check_query(name: str, kind: str, other: str, servers: Sequence[str], ask: Ask) -> Failure | None:
    bad, details, summary = [], [], ""
    for server in servers:
        answer = ask(server, name, kind)
        if answer.error:
            details.append(_no_answer(kind, name, server, answer))
            summary += f"{name}@{server} "
        elif other and not set(answer.records) & set(ask(server, other, kind).records):
            details.append(f"Query {name}:{kind} failed to match {other}")
        else:
            continue
        bad.append(server)
    return Failure(summary, tuple(bad), "\n".join(details), len(bad)) if bad else None


# Asking

def _all(wanted: Iterable[tuple[str, str, str]], how: How) -> dict[tuple[str, str, str], Answer]:
    """Every answer, by server, name and type; all asked for at once."""
    keys = list(wanted)
    with ThreadPoolExecutor(min(MOST_AT_ONCE, len(keys))) as pool:
        return dict(zip(keys, pool.map(lambda key: _answer(key[0], key[1], key[2], how), keys), strict=True))


def _answer(server: str, name: str, kind: str, how: How) -> Answer:
    try:
        message = dns.message.make_query(name, kind, id=secrets.randbits(16),
                                         flags=dns.flags.RD if how.recursion else 0)
        address = socket.getaddrinfo(server, how.port, type=socket.SOCK_DGRAM)[0]
    except dns.exception.DNSException:
        return Answer("FORMERR")
    except OSError as error:
        return Answer(error.strerror or str(error))
    found = None if how.tcp else _over_udp(message, address[0], address[4], how)
    if how.tcp or (found is not None and found.flags & dns.flags.TC):
        found = _over_tcp(message, address[0], address[4], how)
    if found is None:
        return Answer("query timed out")
    records = tuple(rdata for rrset in found.answer for rdata in rrset)
    if not records or found.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return Answer(dns.rcode.to_text(found.rcode()))
    return Answer("", bool(found.flags & dns.flags.AA), records)


def _over_udp(message: dns.message.Message, family: int, address: tuple[object, ...],
              how: How) -> dns.message.Message | None:
    """The answer; None when nothing that answers this came in time, or the server's host refuses."""
    end = None if how.timeout is None else time.monotonic() + how.timeout
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        try:
            one.connect(address)
            for turn in range(how.retry):
                one.send(message.to_wire())
                until = time.monotonic() + how.retransmit * 2 ** turn
                found = _receive(one, message, until if end is None else min(until, end))
                if found is not None:
                    return found
        except OSError:             # refused, no route: who is told so at once need not wait
            return None
    return None


def _receive(one: socket.socket, message: dns.message.Message, until: float) -> dns.message.Message | None:
    while (rest := until - time.monotonic()) > 0:
        one.settimeout(rest)
        try:
            found = _read(one.recv(65535), message)
        except TimeoutError:
            return None
        if found is not None:
            return found
    return None


def _over_tcp(message: dns.message.Message, family: int, address: tuple[object, ...],
              how: How) -> dns.message.Message | None:
    end = time.monotonic() + (TCP_PATIENCE if how.timeout is None else how.timeout)
    wire = message.to_wire()
    try:
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.settimeout(max(0.001, end - time.monotonic()))
            one.connect(address)
            one.sendall(len(wire).to_bytes(2, "big") + wire)
            data = b""
            while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
                one.settimeout(max(0.001, end - time.monotonic()))
                piece = one.recv(65535)
                if not piece or time.monotonic() > end:
                    return None
                data += piece
            return _read(data[2:2 + int.from_bytes(data[:2], "big")], message)
    except OSError:
        return None


def _read(data: bytes, message: dns.message.Message) -> dns.message.Message | None:
    """The message in these bytes when it answers ours."""
    try:
        found = dns.message.from_wire(data, ignore_trailing=True, raise_on_truncation=False)
    except (dns.exception.DNSException, ValueError, IndexError):
        return None
    same = found.id == message.id and found.flags & dns.flags.QR and (
        not found.question or found.question[0] == message.question[0])
    return found if same else None
