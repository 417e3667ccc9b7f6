"""Whether another program hears what is sent to us. Pure. Of named, `named` tells more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from balancer.component import Finding
from balancer.config.values import Endpoint
from balancer.doctor.kernel import Bound, Program

WILDCARDS = ("0.0.0.0", "::")


class Ports(NamedTuple):
    """wanted: (proto, endpoint) of ours; strangers: sockets that are not; owners: by inode, as far as seen."""

    wanted: tuple[tuple[str, Endpoint], ...]
    strangers: tuple[Bound, ...]
    owners: dict[int, Program]


def clashes(bound: Bound, proto: str, endpoint: Endpoint) -> bool:
    """Whether a socket hears, or keeps us from hearing, what is sent to this endpoint."""
    if bound.proto != proto or bound.port != endpoint.port:
        return False
    ours6, theirs6 = ":" in endpoint.host, ":" in bound.host
    if ours6 != theirs6:
        return bound.host == "::" and not bound.only6
    return bound.host == endpoint.host or bound.host in WILDCARDS or endpoint.host in WILDCARDS


def judge_ports(facts: Ports) -> Iterator[Finding]:
    """One finding per program, whatever it hears."""
    clashing: dict[tuple[int, str], list[str]] = {}
    programs: dict[tuple[int, str], Program | None] = {}
    for bound in facts.strangers:
        program = facts.owners.get(bound.inode)
        if program is not None and program.name == "named":
            continue
        for proto, endpoint in facts.wanted:
            if clashes(bound, proto, endpoint):
                key = (program.pid, program.name) if program else (0, "")
                programs[key] = program
                where = f"{bound.host if ':' not in bound.host else f'[{bound.host}]'}:{bound.port}/{proto}"
                if where not in clashing.setdefault(key, []):
                    clashing[key].append(where)
    for key, places in clashing.items():
        program = programs[key]
        who = f"{program.name} (pid {program.pid})" if program else "another program"
        yield Finding(f"{who} listens on {', '.join(sorted(places))}",
                      "ns7 cannot listen on that port beside it, or both would get a part of the queries.",
                      _fix(program, places), "error")


def _fix(program: Program | None, places: list[str]) -> str:
    if program is None:
        return f"ss -lnptu 'sport = :{places[0].rpartition(':')[2].partition('/')[0]}'"
    if program.name.startswith("systemd-resolve"):
        return ("mkdir -p /etc/systemd/resolved.conf.d && printf '[Resolve]\\nDNSStubListener=no\\n' > "
                "/etc/systemd/resolved.conf.d/ns7.conf && systemctl restart systemd-resolved")
    if program.unit:
        return f"systemctl disable --now {program.unit}"
    return f"kill {program.pid}"
