"""`ns7 doctor` for failover: collects the facts that `findings` judges. Runs in the command; changes nothing."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from balancer.component import Check
from balancer.errors import ControlError
from failover.findings import (
    Arp,
    Key,
    Link,
    Manager,
    Peer,
    judge_arp,
    judge_clocks,
    judge_key,
    judge_link,
    judge_managers,
    judge_peers,
)

if TYPE_CHECKING:
    from balancer.component import Site

SIOCGIFFLAGS, IFF_UP = 0x8913, 0x1
PROC = Path("/proc/sys/net/ipv4/conf")
NETWORKD = Path("/run/systemd/netif/links")
NETWORK_MANAGER = Path("/run/NetworkManager/devices")
NETWORK_FOLDERS = ("/etc/systemd/network", "/run/systemd/network", "/usr/local/lib/systemd/network",
                   "/usr/lib/systemd/network", "/lib/systemd/network")
ECHO = {4: (8, 0), 6: (128, 129)}       # types of request and reply: RFC 792, RFC 4443
PINGS, PATIENCE = 3, 0.6                # at most, and seconds for each
HEARD = 3.0                             # seconds for which an advert proves its sender


def link(site: Site) -> Link:
    config = site.config
    return Link(config.interface, tuple(sorted(name for _, name in socket.if_nameindex())), _is_up(config.interface),
                config.addresses, site.held(), _status(site).get("active"))


def _is_up(interface: str) -> bool | None:
    """None when there is none of that name (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            answer = fcntl.ioctl(one, SIOCGIFFLAGS, struct.pack("16s16x", interface.encode()))
        except OSError:
            return None
    return bool(struct.unpack_from("=H", answer, 16)[0] & IFF_UP)


def key(site: Site) -> Key:
    path = site.config.key_file
    if path is None:
        return Key(None, "", False)
    unreadable = site.may_read(path)
    return Key(path, unreadable, not unreadable and bool(Path(path).stat().st_mode & 0o007))


def arp(site: Site) -> Arp:
    interface = site.config.interface
    return Arp(interface, max(_number(PROC / name / "arp_ignore") for name in (interface, "all")),
               site.config.addresses, site.held())


def peers(site: Site) -> tuple[Peer, ...]:
    own = {each.address for each in site.held()}
    others = [address for address in site.config.peers if address not in own]
    status = _status(site)
    heard = status.get("peer") if (status.get("peer_age") or HEARD) < HEARD else None
    with ThreadPoolExecutor(16) as pool:
        return tuple(pool.map(lambda address: Peer(address, address == heard or ping(address)), others))


def clocks(site: Site) -> tuple[tuple[str, float], ...]:
    return tuple((node, float(facts["skew"])) for node, facts in sorted(_status(site).get("directors", {}).items())
                 if "skew" in facts and facts.get("age", 0) < 10)


def managers(site: Site) -> tuple[Manager, ...]:
    return tuple(_managers(site.config.interface))


def _managers(interface: str) -> Iterator[Manager]:
    try:
        index = str(socket.if_nametoindex(interface))
    except OSError:
        return
    with suppress(FileNotFoundError):
        state = dict(line.split("=", 1) for line in (NETWORKD / index).read_text().splitlines() if "=" in line)
        if file := state.get("NETWORK_FILE"):
            yield Manager("networkd", interface, file, _keep(Path(file)))
    with suppress(FileNotFoundError):
        if "managed=true" in (NETWORK_MANAGER / index).read_text().splitlines():
            yield Manager("NetworkManager", interface, "", "")


def _keep(file: Path) -> str:
    """KeepConfiguration of a .network file and its drop-ins, the last one (systemd.network(5))."""
    dropped: dict[str, Path] = {}
    for folder in NETWORK_FOLDERS:
        for path in Path(folder, f"{file.name}.d").glob("*.conf"):
            dropped.setdefault(path.name, path)
    found = section = ""
    for path in (file, *(dropped[name] for name in sorted(dropped))):
        with suppress(OSError):
            for line in path.read_text(errors="replace").splitlines():
                text = line.strip()
                if text.startswith("["):
                    section = text
                elif section == "[Network]" and text.partition("=")[0].strip() == "KeepConfiguration":
                    found = text.partition("=")[2].strip()
    return found


def _status(site: Site) -> dict[str, Any]:
    """`ns7 failover status`, {} when none runs."""
    try:
        return dict(site.ask("failover.status"))
    except (ControlError, TypeError, ValueError):
        return {}


def ping(address: str) -> bool | None:
    """Whether it answers an echo request; None without the right to send one."""
    version = ip_address(address).version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    proto = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    one = None
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        with suppress(PermissionError):
            one = socket.socket(family, kind, proto)
            break
    if one is None:
        return None
    with one:
        for number in range(PINGS):
            payload = secrets.token_bytes(16)
            with suppress(OSError):
                one.connect((address, 0))
                one.send(_echo(version, number, payload))
                if _answered(one, version, payload):
                    return True
    return False


def _echo(version: int, number: int, payload: bytes) -> bytes:
    """An echo request; the kernel adds the checksum of ICMPv6, and of ICMP on a SOCK_DGRAM socket."""
    packet = struct.pack("!BBHHH", ECHO[version][0], 0, 0, os.getpid() & 0xFFFF, number) + payload
    total = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return packet[:2] + struct.pack("!H", ~total & 0xFFFF) + packet[4:] if version == 4 else packet


def _answered(one: socket.socket, version: int, payload: bytes) -> bool:
    end = time.monotonic() + PATIENCE
    while (left := end - time.monotonic()) > 0:
        one.settimeout(left)
        packet = one.recv(2048)
        if version == 4 and one.type == socket.SOCK_RAW:
            packet = packet[(packet[0] & 15) * 4:]
        if packet[:1] == bytes([ECHO[version][1]]) and packet.endswith(payload):
            return True
    return False


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0


CHECKS = (
    Check("interface", link, judge_link, "failover"),
    Check("key", key, judge_key, "failover"),
    Check("arp", arp, judge_arp, "failover"),
    Check("peers", peers, judge_peers, "failover"),
    Check("clock", clocks, judge_clocks, "failover"),
    Check("managers", managers, judge_managers, "failover"),
)
