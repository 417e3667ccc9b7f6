"""What the kernel tells of this host: /proc, netlink, sock_diag. Reads only; OSError with the kernel's reason."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pyroute2 import DiagSocket, IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from balancer.component import Held

IFA_F_PERMANENT = 0x80                          # include/uapi/linux/if_addr.h
TCP_CLOSE, TCP_LISTEN = 7, 10                   # include/net/tcp_states.h; an unconnected UDP socket is in the first
INET_DIAG_SKMEMINFO = 7                         # include/uapi/linux/inet_diag.h
STATES = {"udp": (socket.IPPROTO_UDP, TCP_CLOSE), "tcp": (socket.IPPROTO_TCP, TCP_LISTEN)}
_UNIT = re.compile(r"/([^/\n]+\.service)\b")


class Program(NamedTuple):
    """A process. unit: of systemd, "" for none."""

    pid: int
    name: str
    unit: str
    argv: tuple[str, ...]


class Bound(NamedTuple):
    """A socket that listens. only6: an IPv6 one that hears no IPv4; buffer: bytes it may queue, as it was asked for."""

    proto: str
    host: str
    port: int
    inode: int
    only6: bool
    buffer: int


def held() -> tuple[Held, ...]:
    """The addresses of this network namespace."""
    with IPRoute() as route:
        names = {link["index"]: link.get("ifname") for link in _ask(route.get_links)}
        return tuple(Held(entry.get("local") or entry.get("address"), entry["prefixlen"],
                          names.get(entry["index"]) or "", bool((entry.get("flags") or 0) & IFA_F_PERMANENT))
                     for entry in _ask(route.get_addr))


def device(address: str) -> str:
    """The interface by which an address is reached, "" without a route."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with IPRoute() as route, contextlib.suppress(OSError):
        for entry in _ask(route.route, "get", dst=address, family=family):
            return socket.if_indextoname(entry.get("oif"))
    return ""


def listening(ports: Collection[int]) -> tuple[Bound, ...]:
    """Every socket that hears one of these ports."""
    found = []
    with DiagSocket() as diagnosis:
        diagnosis.bind()
        for proto, (number, state) in STATES.items():
            for family in (socket.AF_INET, socket.AF_INET6):
                for entry in _ask(diagnosis.get_sock_stats, family=family, protocol=number, states=1 << state,
                                  extensions=1 << (INET_DIAG_SKMEMINFO - 1)):
                    if entry["idiag_sport"] in ports:
                        found.append(Bound(proto, entry["idiag_src"], entry["idiag_sport"], entry["idiag_inode"],
                                           bool(entry.get("INET_DIAG_SKV6ONLY")), _buffer(entry)))
    return tuple(found)


def _buffer(entry: Any) -> int:
    """The receive buffer; the kernel doubles what was asked for (socket(7))."""
    words = entry.get("INET_DIAG_SKMEMINFO") or ""
    raw = bytes.fromhex(words.replace(":", "")) if isinstance(words, str) else bytes(words)
    return int(struct.unpack_from("=I", raw, 4)[0]) // 2 if len(raw) >= 8 else 0


def owners(inodes: Collection[int]) -> dict[int, Program]:
    """Whose sockets these are, as far as we may see it."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, Program] = {}
    for process in Path("/proc").glob("[0-9]*") if wanted else ():
        with contextlib.suppress(OSError):
            for descriptor in os.scandir(process / "fd"):
                with contextlib.suppress(OSError):
                    inode = wanted.get(str(Path(descriptor.path).readlink()))
                    if inode is not None and inode not in found:
                        found[inode] = program(int(process.name))
        if len(found) == len(wanted):
            break
    return found


def program(pid: int) -> Program:
    """A process by its number; OSError when it is gone."""
    folder = Path("/proc", str(pid))
    unit = _UNIT.search((folder / "cgroup").read_text())
    return Program(pid, (folder / "comm").read_text().strip(), unit[1] if unit else "",
                   tuple((folder / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]))


def running(name: str) -> Iterator[Program]:
    """The processes of this name in our network namespace, as far as we may see it."""
    ours = Path("/proc/thread-self/ns/net").stat().st_ino
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "comm").read_text().strip() == name and (process / "ns/net").stat().st_ino == ours:
                yield program(int(process.name))


def starts_units() -> bool:
    """Whether this host runs systemd, and what that starts runs in this network namespace (sd_booted(3))."""
    try:
        first, ours = (Path("/proc", each, "ns/net").stat().st_ino for each in ("1", "thread-self"))
        return Path("/run/systemd/system").is_dir() and first == ours
    except PermissionError:
        return os.geteuid() != 0                # who is root and may not look is in a sandbox


def number(name: str) -> int | None:
    """A sysctl that is a number; None when this kernel does not have it."""
    try:
        return int(Path("/proc/sys", *name.split("/")).read_text())
    except (FileNotFoundError, ValueError):
        return None


def netstat(name: str) -> int:
    """A counter of /proc/net/netstat, 0 when there is none."""
    lines = Path("/proc/thread-self/net/netstat").read_text().splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        if name in (words := names.split()):
            return int(values.split()[words.index(name)])
    return 0


def flows(targets: Collection[tuple[str, int]], seconds: float) -> int | None:
    """How many tracked flows go to these (address, port), looking for that long; None without the right to see it."""
    end, found = time.monotonic() + seconds, 0
    try:
        with NFCTSocket() as tracking:
            for entry in tracking.dump():
                tuple_ = entry.get("CTA_TUPLE_ORIG")
                ip, proto = tuple_.get("CTA_TUPLE_IP"), tuple_.get("CTA_TUPLE_PROTO")
                host = ip.get("CTA_IP_V4_DST") or ip.get("CTA_IP_V6_DST")
                found += (host, proto.get("CTA_PROTO_DST_PORT")) in targets
                if time.monotonic() > end:
                    break
    except (NetlinkError, PermissionError):
        return None
    return found


def _ask(request: Any, *arguments: Any, **fields: Any) -> list[Any]:
    try:
        return list(request(*arguments, **fields))
    except NetlinkError as error:
        raise OSError(error.code, str(error.args[-1])) from error
