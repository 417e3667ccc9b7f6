"""The name servers behind every balancer: NSD processes over one generated zone.

NSD, because it answers faster than any balancer forwards. No rate limit, no chroot, no control port, one
serving process each; with many server addresses each NSD listens on its share of them.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab import Address, Lab, LabError, Process, free_port
from benchmarks.load import wait_answer
from tests.helpers.nameconf import nsd_server

ZONE = "bench.example"
NAMES = 1000


def name(i: int) -> str:
    """The i-th name of the zone: 1 to 31 characters, most of them short, as the names that are asked for are.

    Queries of one length only would flatter who sends equally long ones together.
    """
    longer = random.Random(i)
    return f"n{i:04}" + "x" * min(longer.randrange(27), longer.randrange(27)) if i else "n"


PROBE = (f"{name(0)}.{ZONE}", "A")


def zone_text(names: int = NAMES) -> str:
    """A zone with A, AAAA and TXT at each name."""
    lines = [
        f"$ORIGIN {ZONE}.",
        "$TTL 300",
        "@ SOA ns hostmaster 1 3600 900 604800 300",
        "@ NS ns",
        "ns A 127.0.0.1",
    ]
    for i in range(names):
        lines.append(f"{name(i)} A 192.0.2.{i % 250 + 1}")
        lines.append(f"{name(i)} AAAA 2001:db8::{i + 1:x}")
        lines.append(f'{name(i)} TXT "name {i} of the benchmark zone"')
    return "\n".join(lines) + "\n"


def query_text(names: int = NAMES) -> str:
    """dnsperf's query file: every name with every type, shuffled but always alike."""
    queries = [f"{name(i)}.{ZONE} {kind}" for i in range(names) for kind in ("A", "AAAA", "TXT")]
    random.Random(7).shuffle(queries)
    return "\n".join(queries) + "\n"


def config_text(folder: Path, name: str, addresses: list[Address], zones: tuple[str, ...] = (ZONE,)) -> str:
    """nsd.conf for one process."""
    served = "".join(
        f"zone:\n  name: {zone}\n  zonefile: {zone}.zone\n  provide-xfr: 0.0.0.0/0 NOKEY\n" for zone in zones)
    more = "  tcp-count: 1000\n  receive-buffer-size: 4194304\n  send-buffer-size: 4194304\n"
    return nsd_server(folder, [f"{address.host}@{address.port}" for address in addresses], name, more) + served


@dataclass(frozen=True)
class Servers:
    """Running name servers; `addresses` alternate between the processes."""

    processes: list[Process]
    addresses: list[Address]
    queries: Path

    def first(self, count: int) -> list[Address]:
        return self.addresses[:count]


def start(lab: Lab, processes: int = 2, addresses: int = 2, zones: tuple[str, ...] = (ZONE,)) -> Servers:
    """Start NSD processes that share the addresses 127.0.K.N evenly, and wait until each answers."""
    (lab.folder / f"{ZONE}.zone").write_text(zone_text())
    queries = lab.folder / "queries.txt"
    queries.write_text(query_text())
    started: list[Process] = []
    shares: list[list[Address]] = []
    for k in range(processes):
        hosts = [f"127.0.{k + 1}.{n + 1}" for n in range(-(-addresses // processes))]
        port = free_port(hosts)
        shares.append([Address(host, port) for host in hosts])
        config = lab.folder / f"nsd{k + 1}.conf"
        config.write_text(config_text(lab.folder, f"nsd{k + 1}", shares[-1], zones))
        started.append(lab.start(f"nsd{k + 1}", ["nsd", "-d", "-c", str(config)]))
    for process, share in zip(started, shares, strict=True):
        if not wait_answer(share[-1], PROBE, time.monotonic() + 60, process.alive):
            raise LabError(f"{process.name} does not answer: {process.last_words()}")
    mixed = [address for group in zip(*shares, strict=True) for address in group]
    return Servers(started, mixed[:addresses], queries)
