"""What runs on the servers' hosts: NSD, BIND with 2,000 zones, or a server that a query can kill."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import servers
from benchmarks.lab import Address
from tests.helpers.nameconf import at, named_options

ZONES = 2_000
SMALL = "$TTL 300\n@ SOA ns hostmaster 1 3600 900 604800 300\n@ NS ns\nns A 192.0.2.1\nwww A 192.0.2.80\n"


@dataclass(frozen=True)
class Backend:
    """prepare(folder): what all of them share. argv(folder, name, address): writes one's configuration, says how it is
    started. queries: dnsperf's query file."""

    program: str
    prepare: Callable[[Path], object]
    argv: Callable[[Path, str, Address], Sequence[str]]
    queries: Callable[[], str] = servers.query_text


def _write_zone(folder: Path) -> None:
    (folder / f"{servers.ZONE}.zone").write_text(servers.zone_text())


def _nsd(folder: Path, name: str, address: Address) -> Sequence[str]:
    config = folder / f"{name}.conf"
    config.write_text(servers.config_text(folder, name, [address]))
    return ["nsd", "-d", "-c", str(config)]


def small_zones() -> list[str]:
    """Names of the zones beside the benchmark's own."""
    return [f"z{number}.example" for number in range(ZONES - 1)]


def _write_zones(folder: Path) -> None:
    _write_zone(folder)
    (folder / "zones").mkdir(exist_ok=True)
    for zone in small_zones():
        (folder / "zones" / zone).write_text(SMALL)


def _named(folder: Path, name: str, address: Address) -> Sequence[str]:
    own = folder / name
    own.mkdir(exist_ok=True)
    zones = [(servers.ZONE, folder / f"{servers.ZONE}.zone")]
    zones += [(zone, folder / "zones" / zone) for zone in small_zones()]
    config = own / "named.conf"
    config.write_text(named_options(own, at(*address)) + "controls { };\n" + "".join(
        f'zone "{zone}" {{ type primary; file "{file}"; }};\n' for zone, file in zones))
    return ["named", "-g", "-n", "1", "-c", str(config)]


def _all_zones() -> str:
    """Half of the queries for the benchmark's zone, half for all the others."""
    own = servers.query_text().splitlines()
    others = [f"www.{zone} A" for zone in small_zones()]
    mixed = own + others * (len(own) // len(others))
    random.Random(7).shuffle(mixed)
    return "\n".join(mixed) + "\n"


def _killable(_: Path, __: str, address: Address) -> Sequence[str]:
    return [sys.executable, "-m", "benchmarks.faults.killable", str(address)]


BACKENDS = {
    "nsd": Backend("nsd", _write_zone, _nsd),
    "bind2000": Backend("named", _write_zones, _named, _all_zones),
}
KILLABLE = Backend("", lambda folder: None, _killable)
