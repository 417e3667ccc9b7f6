"""What is wrong with failover on this host, from facts. Pure; `doctor` collects them."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from balancer.component import Finding, Held

SKEW = 10.0                     # seconds between the clocks of directors
# arp(7), net.ipv4.conf.*.arp_ignore: 2 asks that the sender is in the address's own network, which a /32 has none of;
# 4 to 7 are reserved; 8 answers nobody.
DEAF = (2, 4, 5, 6, 7, 8)
# What makes systemd-networkd keep an address with a lifetime (tried with 252; "static" keeps only those without).
KEEPS = ("yes", "true", "1", "on", "dhcp", "dynamic")


class Link(NamedTuple):
    """up: None when there is no such interface; active: what the running failover says, None when none runs."""

    interface: str
    known: tuple[str, ...]
    up: bool | None
    addresses: tuple[str, ...]
    held: tuple[Held, ...]
    active: bool | None


def judge_link(facts: Link) -> Iterator[Finding]:
    if facts.up is None:
        yield Finding(f"failover.interface: there is no {facts.interface} on this host (there are: "
                      f"{', '.join(facts.known) or 'none'})",
                      "The address cannot come here, so this director takes nothing over.",
                      f"sed -i 's/^interface = \"{facts.interface}\"/interface = \"{_guess(facts)}\"/' "
                      "/etc/ns7/ns7.toml", "error")
        return
    if not facts.up:
        yield Finding(f"failover.interface: {facts.interface} is down",
                      "The directors do not hear each other, and nobody is served here.",
                      f"ip link set {facts.interface} up", "error")
    here = [each for each in facts.held if each.device == facts.interface and each.address not in facts.addresses]
    for version in sorted({ip_address(address).version for address in facts.addresses}):
        if not any(ip_address(each.address).version == version for each in here):
            example = "192.0.2.87/24" if version == 4 else "2001:db8::87/64"
            yield Finding(f"{facts.interface} has no IPv{version} address of its own",
                          "VRRP adverts have no source address, so the other director takes over.",
                          f"ip address add {example} dev {facts.interface}   # this host's own address", "error")
    for each in facts.held:
        if each.address in facts.addresses and each.device not in (facts.interface, "lo"):
            yield Finding(f"{each.address} is on {each.device}, and failover.interface is {facts.interface}",
                          "This host answers for the address whoever is the active director.",
                          f"ip address delete {each.address}/{each.length} dev {each.device}", "error")
        elif each.address in facts.addresses and each.device == facts.interface and each.permanent:
            yield Finding(f"{each.address} is on {each.device} for good, added by somebody else than ns7",
                          "It stays when the other director takes over, and then two hosts answer for it.",
                          f"ip address delete {each.address}/{each.length} dev {each.device}", "error")
    if facts.active:
        for address in facts.addresses:
            if address not in {each.address for each in facts.held}:
                yield Finding(f"this director is active, and {address} is not on {facts.interface}",
                              "Nobody is served at the address; something here takes it away again and again.",
                              "ip monitor address   # shows it come and go; then: ns7 failover release", "error")


def _guess(facts: Link) -> str:
    return next((name for name in facts.known if name != "lo"), "eth0")


class Key(NamedTuple):
    """path None: it is not set; unreadable: why ns7's user cannot read it, "" when it can; open: everybody can."""

    path: str | None
    unreadable: str
    open: bool


def judge_key(facts: Key) -> Iterator[Finding]:
    if facts.path is None:
        yield Finding("failover.key_file is not set",
                      "A missing standby and differing configurations are not noticed.",
                      "(umask 027; head -c 32 /dev/urandom | base64 > /etc/ns7/failover.key; "
                      "chgrp ns7 /etc/ns7/failover.key)   # the same file on both directors")
    elif facts.unreadable:
        yield Finding(f"failover.key_file {facts.path}: {facts.unreadable}",
                      "The directors tell each other nothing beside VRRP.",
                      f"chgrp ns7 {facts.path} && chmod 640 {facts.path}   # copy it from the other director")
    elif facts.open:
        yield Finding(f"failover.key_file {facts.path} may be read by everybody",
                      "Whoever can log in here can speak for a director.", f"chmod o= {facts.path}", "error")


class Arp(NamedTuple):
    """ignore: arp_ignore in force on the interface; held: addresses of this host."""

    interface: str
    ignore: int
    addresses: tuple[str, ...]
    held: tuple[Held, ...]


def judge_arp(facts: Arp) -> Iterator[Finding]:
    settings = f"net.ipv4.conf.all.arp_ignore net.ipv4.conf.{facts.interface}.arp_ignore"
    mend = " ".join(f"{name}=1" for name in settings.split())
    if facts.ignore in DEAF:
        yield Finding(f"arp_ignore is {facts.ignore} on {facts.interface}: ARP for the virtual address is not answered",
                      "Clients and routers find the address by the announcements alone, and lose it when they forget.",
                      f"sysctl -w {mend}", "error")
    if facts.ignore == 0:
        for each in facts.held:
            network = ip_network(f"{each.address}/{each.length}", strict=False)
            if each.device not in ("lo", facts.interface) and each.length < network.max_prefixlen and any(
                    ip_address(address) in network for address in facts.addresses if ":" not in address):
                yield Finding(f"{each.device} is on the same network as {facts.interface}, and arp_ignore is 0",
                              "Both answer ARP for the virtual address, so its traffic arrives by either.",
                              f"sysctl -w {mend} net.ipv4.conf.all.arp_announce=2")
                return


class Peer(NamedTuple):
    """A director. reached: by the running failover, or by ping; None: it cannot be told."""

    address: str
    reached: bool | None


def judge_peers(facts: tuple[Peer, ...]) -> Iterator[Finding]:
    for peer in facts:
        if peer.reached is None:
            yield Finding(f"whether {peer.address} (failover.peers) can be reached: no right to ping it",
                          "What was not looked at may be wrong.", "sudo ns7 doctor", "unknown")
        elif not peer.reached:
            yield Finding(f"{peer.address} (failover.peers) cannot be reached",
                          "Nobody takes over when this director dies, or both hold the address.",
                          f"ping -c 3 {peer.address}; ip neighbour show {peer.address}", "error")


def judge_clocks(facts: tuple[tuple[str, float], ...]) -> Iterator[Finding]:
    """facts: (director, seconds by which its clock is ahead of ours)."""
    for node, ahead in facts:
        if abs(ahead) > SKEW:
            how = "ahead of" if ahead > 0 else "behind"
            yield Finding(f"the clock of director {node} is {abs(ahead):.0f} s {how} ours",
                          "Of an operator's changes the later one counts on both, so the wrong one may.",
                          "timedatectl set-ntp true   # on both")


class Manager(NamedTuple):
    """Who manages the interface besides us. program: "networkd" or "NetworkManager"; file: its .network file; keep:
    its KeepConfiguration, "" when not set."""

    program: str
    interface: str
    file: str
    keep: str


def judge_managers(facts: tuple[Manager, ...]) -> Iterator[Finding]:
    why = "At a reload it removes addresses that it does not know; until ns7 has put them back queries are lost."
    for manager in facts:
        if manager.program == "NetworkManager":
            yield Finding(f"NetworkManager manages {manager.interface}", why,
                          f"printf '[device-ns7]\\nmatch-device=interface-name:{manager.interface}\\nmanaged=0\\n' > "
                          f"/etc/NetworkManager/conf.d/ns7.conf && nmcli device set {manager.interface} managed no")
        elif manager.keep.lower() not in KEEPS:
            folder = f"/etc/systemd/network/{manager.file.rpartition('/')[2]}.d"
            yield Finding(f"systemd-networkd manages {manager.interface} with KeepConfiguration={manager.keep or 'no'}",
                          why, f"mkdir -p {folder} && printf '[Network]\\nKeepConfiguration=yes\\n' > "
                          f"{folder}/ns7.conf && networkctl reload")
