"""Collects what the core's checks judge. Asks the kernel, files, the running ns7, and a few DNS questions."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rdatatype

from balancer.component import Site, components
from balancer.config.values import SERVER, Endpoint
from balancer.doctor import kernel
from balancer.doctor.addresses import Addresses, Arrival, Loopback, Paths
from balancer.doctor.kernel import Bound
from balancer.doctor.limits import Buffers, Rights
from balancer.doctor.mail import Mail
from balancer.doctor.named import Conf, Named
from balancer.doctor.ports import Ports, clashes
from balancer.doctor.traffic import Tracking
from balancer.errors import ControlError, Unseen

PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
MOST_FILES, MOST_BYTES = 100, 1 << 20
ENABLED = Path("/etc/systemd/system/multi-user.target.wants/named.service")
BUFFERS = ("net.core.rmem_max", "net.core.wmem_max")
ANYBODY = "198.51.100.1"        # TEST-NET-2 (RFC 5737): stands for the rest of the world, and is never sent to
PREFIXES, PATIENCE = 4, 0.8
_OPTIONS = re.compile(r"^\s*options\s*\{", re.MULTILINE)
_INCLUDE = re.compile(r'^\s*include\s+"([^"]+)"', re.MULTILINE)
_NOTRACK = re.compile(r"^.*\b(?:notrack|NOTRACK|CT --notrack)\b.*$", re.MULTILINE)


def _balances(site: Site) -> bool:
    return "balancer" in site.roles


def _listen(site: Site) -> list[Endpoint]:
    return [endpoint for service in site.config.services for endpoint in service.listen]


def _wanted(site: Site) -> tuple[tuple[str, Endpoint], ...]:
    """What ns7 listens on, on this host."""
    ours = [(proto, endpoint) for endpoint in _listen(site) for proto in ("udp", "tcp")] if _balances(site) else []
    return (*ours, *(("tcp", endpoint) for endpoint in site.config.admin.listen))


def missing(site: Site) -> Addresses:
    wanted: list[tuple[str, str]] = []
    for number, service in enumerate(site.config.services):
        wanted += [(f"service[{number}].listen", endpoint.host) for endpoint in service.listen
                   if endpoint.host not in site.floating and not ip_address(endpoint.host).is_loopback]
        wanted += [(f"service[{number}].server[{at}].source", str(server.source))
                   for at, server in enumerate(service.servers) if server.source]
    held = site.held()
    absent = [address for _, address in wanted if address not in {each.address for each in held}]
    return Addresses(tuple(wanted), held, site.device(absent[0]) if absent else "")


def loopback(site: Site) -> Loopback:
    return Loopback(frozenset(endpoint.host for endpoint in _listen(site)), site.floating, _balances(site), site.held())


def paths(site: Site) -> Paths:
    held = {each.address: each.device for each in site.held()}
    arrivals = []
    for service in site.config.services:
        clients = [ANYBODY if prefix.prefixlen == 0 else str(prefix.network_address)
                   for prefix in service.admit.query if prefix.version == 4][:PREFIXES]
        leaves = tuple(site.device(client) for client in clients)
        for endpoint in service.listen:
            address = ip_address(endpoint.host)
            if address.version == 4 and not address.is_unspecified and not address.is_loopback:
                device = held.get(endpoint.host) or site.device(endpoint.host)
                strict = max(kernel.number("net/ipv4/conf/all/rp_filter") or 0,
                             kernel.number(f"net/ipv4/conf/{device}/rp_filter") or 0) == 1 if device else False
                arrivals.append(Arrival(endpoint.host, device, leaves, strict))
    return Paths(tuple(arrivals), kernel.netstat("IPReversePathFilter"))


def ports(site: Site) -> Ports:
    wanted = _wanted(site)
    strangers = tuple(bound for bound in _strangers(site)
                      if any(clashes(bound, proto, endpoint) for proto, endpoint in wanted))
    return Ports(wanted, strangers, kernel.owners([bound.inode for bound in strangers]))


def _strangers(site: Site) -> list[Bound]:
    """Sockets at our ports that are not ours."""
    found = kernel.listening({endpoint.port for _, endpoint in _wanted(site)})
    ours: set[int] = set()
    try:
        ours = {inode for inodes in site.ask("listeners").values() for inode in inodes}
    except ControlError:
        pass
    admin = {endpoint.port for endpoint in site.config.admin.listen}
    if ours and any(bound.port in admin and bound.inode not in ours for bound in found):
        # The admin process opens its own.
        own = {process["pid"] for process in site.ask("status")["processes"].values()}
        ours |= {inode for inode, program in kernel.owners([bound.inode for bound in found]).items()
                 if program.pid in own}
    return [bound for bound in found if bound.inode not in ours]


def named(site: Site) -> Named:
    wanted = tuple((proto, endpoint) for proto, endpoint in _wanted(site) if endpoint in _listen(site)
                   and not ip_address(endpoint.host).is_loopback)
    if not wanted:
        return Named((), (), (), (), frozenset())
    strangers = [bound for bound in _strangers(site) if any(clashes(bound, *each) for each in wanted)]
    owners = kernel.owners([bound.inode for bound in strangers])
    holding = tuple(bound for bound in strangers if bound.inode in owners and owners[bound.inode].name == "named")
    virtual = site.floating | {endpoint.host for _, endpoint in wanted}
    return Named(wanted, tuple(_confs()), holding, site.held(), virtual)


def _confs() -> Iterator[Conf]:
    """Of each named of this network namespace; of the one that is started at boot when none runs."""
    argvs = [(program.pid, program.argv) for program in kernel.running("named")]
    if not argvs and kernel.starts_units() and ENABLED.exists():
        argvs = [(0, ())]
    for pid, argv in argvs:
        options = dict(pairwise(argv))
        file, root = options.get("-c", "/etc/bind/named.conf"), options.get("-t", "")
        program = shutil.which("named-checkconf", path=PATH)
        if program is None:
            raise Unseen("named runs here and named-checkconf is not installed", "apt-get install bind9-utils")
        done = subprocess.run([program, "-p", *(["-t", root] if root else []), file], capture_output=True, text=True,
                              errors="replace", timeout=2, check=False)
        if done.returncode:
            raise Unseen(f"{file} is not right, or cannot be read: {(done.stdout + done.stderr).strip()[:300]}",
                         f"named-checkconf {file}")
        yield Conf(pid, done.stdout, _options_file(root, file))


def _options_file(root: str, file: str) -> str:
    """The file that has the options statement: this one, or one that it includes."""
    waiting, seen = [file], set[str]()
    while waiting and len(seen) < MOST_FILES:
        path = waiting.pop(0)
        seen.add(path)
        with contextlib.suppress(OSError), open(root + path, encoding="utf-8", errors="replace") as lines:
            text = lines.read(MOST_BYTES)
            if _OPTIONS.search(text):
                return root + path
            waiting += [each for each in _INCLUDE.findall(text) if each not in seen]
    return root + file


def rights(site: Site) -> Rights:
    first = kernel.number("net/ipv4/ip_unprivileged_port_start")
    first = 1024 if first is None else first
    needed = [("NET_BIND_SERVICE", f"port {endpoint.port}") for endpoint in
              dict.fromkeys(endpoint for _, endpoint in _wanted(site)) if endpoint.port < first]
    needed += [(name, role) for role in site.roles if role in components()
               for name in components()[role].rights.capabilities]
    return Rights(tuple(dict.fromkeys(needed)), site.user)


def buffers(site: Site) -> Buffers:
    granted: list[tuple[str, int]] = []
    with contextlib.suppress(ControlError):
        ours = {inode: address for address, inodes in site.ask("listeners").items() for inode in inodes}
        granted = [(ours[bound.inode], bound.buffer) for bound in kernel.listening({e.port for e in _listen(site)})
                   if bound.inode in ours and bound.proto == "udp"]
    return Buffers(site.config.process.udp_buffer, tuple(granted),
                   tuple((name, kernel.number(name.replace(".", "/"))) for name in BUFFERS),
                   "NET_ADMIN" in site.user.capabilities)


def migration(site: Site) -> int | None:
    return kernel.number("net/ipv4/tcp_migrate_req")


def tracking(site: Site) -> Tracking:
    listen = _listen(site)
    tracked = kernel.number("net/netfilter/nf_conntrack_count")
    numbers = tuple(sorted({endpoint.port for endpoint in listen}))
    if not tracked:
        return Tracking(0, 0, None, None, numbers)
    hosts = {endpoint.host for endpoint in listen} | {each.address for each in site.held()}
    return Tracking(tracked, kernel.number("net/netfilter/nf_conntrack_max") or 0,
                    kernel.flows({(host, port) for host in hosts for port in numbers}, 0.7), _exempt(numbers), numbers)


def _exempt(numbers: tuple[int, ...]) -> bool | None:
    """Whether a rule of the packet filter says notrack for one of these ports."""
    told = False
    for argv in (["nft", "-n", "list", "ruleset"], ["iptables-legacy-save", "-t", "raw"]):
        program = shutil.which(argv[0], path=PATH)
        if program is None:
            continue
        done = subprocess.run([program, *argv[1:]], capture_output=True, text=True, timeout=2, check=False)
        told = told or done.returncode == 0
        for rule in _NOTRACK.findall(done.stdout):
            if {str(number) for number in numbers} & set(re.findall(r"\d+", rule)):
                return True
    return False if told else None


def mail(site: Site) -> Mail | None:
    alerts = site.config.alerts
    host = alerts.smtp.host
    with contextlib.suppress(ValueError):
        ip_address(host)
        return None
    if not alerts.mail_to or host == "localhost":
        return None
    ours = frozenset(endpoint.host for endpoint in _listen(site)) | site.floating
    zone, authorities = _authorities(site, host)
    address = ""
    with contextlib.suppress(OSError):
        address = str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    return Mail(host, host in _words("/etc/hosts"), tuple(
        word for word in _words("/etc/resolv.conf", "nameserver")), ours, zone, authorities, address)


def _words(path: str, first: str = "") -> set[str]:
    """The words after the first one of each line without its comment; only of lines that begin with `first`."""
    found: set[str] = set()
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            words = line.partition("#")[0].split()
            if words and first in ("", words[0]):
                found.update(words[1:])
    return found


def _authorities(site: Site, host: str) -> tuple[str, dict[str, tuple[str, ...]]]:
    """The zone of a name, if our servers have it, and its name servers with their addresses in it."""
    server = next((SERVER(server.address) for service in site.services for server in service.servers), None)
    if server is None:
        return "", {}

    def ask(name: str, kind: str) -> dns.message.Message | None:
        with contextlib.suppress(dns.exception.DNSException, OSError, ValueError):
            query = dns.message.make_query(name, kind, use_edns=0, flags=0)
            answer = dns.query.udp(query, server.host, PATIENCE, server.port, ignore_trailing=True)
            return answer if answer.flags & dns.flags.AA else None
        return None

    said = ask(host, "SOA")
    owner = next((rrset.name for rrset in (said.answer + said.authority if said else ())
                  if rrset.rdtype == dns.rdatatype.SOA), None)
    if owner is None:
        return "", {}
    names = ask(owner.to_text(), "NS")
    found: dict[str, tuple[str, ...]] = {}
    for rrset in names.answer if names else ():
        for rdata in list(rrset)[:8] if rrset.rdtype == dns.rdatatype.NS else ():
            name = rdata.target.to_text()
            addresses = [str(each) for kind in ("A", "AAAA") if (reply := ask(name, kind)) for one in reply.answer
                         if one.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA) for each in one]
            found[name.rstrip(".")] = tuple(addresses)
    return owner.to_text().rstrip("."), found
