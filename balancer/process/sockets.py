"""Every socket option of the data path, with its reason. Runs in the supervisor, which owns all sockets."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import secrets
import socket
import struct
from typing import TYPE_CHECKING

from balancer.errors import StartError

if TYPE_CHECKING:
    from balancer.config import Endpoint

# Linux numbers that Python's socket module does not name.
IP_MTU_DISCOVER, IP_PMTUDISC_OMIT, IP_RECVERR, IP_FREEBIND, IP_PKTINFO = 10, 5, 11, 15, 8
IPV6_MTU_DISCOVER, IPV6_PMTUDISC_OMIT, IPV6_RECVERR, IPV6_FREEBIND = 23, 5, 25, 78
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
TCP_NOTSENT_LOWAT = 25
DISCARD = 9
BACKLOG = 4096              # connections the kernel completes before a worker takes them (net.core.somaxconn caps it)
UNSENT_MOST = 131072
# linux/filter.h: what a classic BPF program of `steer` says. Below SKF_NET_OFF lies the IP header.
SO_ATTACH_REUSEPORT_CBPF, SKF_NET_OFF = 51, 0xFFF00000
BPF_LD_W_ABS, BPF_XOR_K, BPF_XOR_X, BPF_MUL_K, BPF_RSH_K, BPF_MOD_K = 0x20, 0xA4, 0xAC, 0x24, 0x74, 0x94
BPF_TAX, BPF_RET_A = 0x07, 0x16
GOLDEN = 0x9E3779B1
_SECRET = secrets.randbits(32), secrets.randbits(32)
KINDS = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}


def set_buffers(one: socket.socket, size: int) -> None:
    """Ask for receive and send buffers of `size` bytes."""
    # FORCE passes net.core.rmem_max, which a distribution sets far too low; it needs CAP_NET_ADMIN.
    for force, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            one.setsockopt(socket.SOL_SOCKET, force, size)
        except PermissionError:
            one.setsockopt(socket.SOL_SOCKET, plain, size)


def _no_path_mtu(one: socket.socket) -> None:
    # A forged "fragmentation needed" must not cost large answers: never set DF, fragment at the link's MTU.
    if one.family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_OMIT)
    else:
        one.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_OMIT)


def _bound(address: Endpoint, reuse_port: bool, free: bool,
           kind: socket.SocketKind = socket.SOCK_DGRAM) -> socket.socket:
    one = socket.socket(address.family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if one.family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if free:            # a floating address may not be here yet: bind now, serve when it comes
            if one.family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
            else:
                one.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        if reuse_port:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if kind == socket.SOCK_STREAM:      # past connections (TIME_WAIT) hold nobody up, another listener still does
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((address.host, address.port))
    except OSError as error:
        one.close()
        proto = "tcp" if kind == socket.SOCK_STREAM else "udp"
        raise StartError(f"cannot listen on {address}/{proto}: {_reason(error)}") from error
    return one


def _reason(error: OSError) -> str:
    return {
        errno.EADDRINUSE: "the port is taken by another program",
        errno.EACCES: "no right to use this port (CAP_NET_BIND_SERVICE is needed below 1024)",
        errno.EPERM: "not permitted",
        errno.EADDRNOTAVAIL: "not an address of this host",
    }.get(error.errno or 0, error.strerror or str(error))


def probe_listen(proto: str, address: Endpoint, floats: bool) -> None:
    """`StartError` when anybody listens there already.

    SO_REUSEPORT would let a second ns7 of the same user share the port silently; a bind without it does not.
    """
    _bound(address, reuse_port=False, free=floats, kind=KINDS[proto]).close()


def is_local(address: Endpoint) -> bool:
    """Whether the address is on this host now."""
    try:
        _bound(address._replace(port=0), reuse_port=False, free=False).close()
    except StartError:
        return False
    return True


def open_listener(proto: str, address: Endpoint, floats: bool) -> socket.socket:
    """A socket that listens on `address`, one of a SO_REUSEPORT group. The buffers of UDP are set by `set_buffers`.

    floats: the address may be on another host now (IP_FREEBIND).
    """
    return _open_tcp_listener(address, floats) if proto == "tcp" else _open_udp_listener(address, floats)


def _open_udp_listener(address: Endpoint, floats: bool) -> socket.socket:
    one = _bound(address, reuse_port=True, free=floats)      # never SO_REUSEADDR, which would let named in
    _no_path_mtu(one)
    if address.host in ("0.0.0.0", "::"):       # answers must leave from the address that was asked
        if one.family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            one.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    return one


def _open_tcp_listener(address: Endpoint, floats: bool) -> socket.socket:
    one = _bound(address, reuse_port=True, free=floats, kind=socket.SOCK_STREAM)
    # Connections inherit the options. Answers leave at once; what the kernel holds unsent for a client that does not
    # read is bounded.
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    one.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_MOST)
    try:
        one.listen(BACKLOG)
    except OSError as error:
        one.close()
        raise StartError(f"cannot listen on {address}/tcp: {_reason(error)}") from error
    return one


def steer(one: socket.socket, workers: int) -> None:
    """Let all connections of a client come to the same of so many listening sockets, those of one's SO_REUSEPORT group
    in order of opening: the limit per client, which each worker keeps by itself, is then that of all of them.

    The kernel's own choice, by both addresses and ports, stays for those that the group has not (socket(7),
    SO_ATTACH_REUSEPORT_CBPF). A client is an IPv4 address or an IPv6 /64, as datapath/relay counts it; the hash is
    keyed at random, so that nobody can aim many of them at one worker.
    """
    first, mix, last = SKF_NET_OFF + (8 if one.family == socket.AF_INET6 else 12), *_SECRET
    program = [(BPF_LD_W_ABS, first), (BPF_XOR_K, mix), (BPF_MUL_K, last | 1)]
    if one.family == socket.AF_INET6:
        program += [(BPF_TAX, 0), (BPF_LD_W_ABS, first + 4), (BPF_XOR_X, 0), (BPF_MUL_K, GOLDEN)]
    program += [(BPF_TAX, 0), (BPF_RSH_K, 16), (BPF_XOR_X, 0), (BPF_MUL_K, GOLDEN), (BPF_RSH_K, 16),
                (BPF_MOD_K, workers), (BPF_RET_A, 0)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("@HBBI", what, 0, 0, value) for what, value in program))
    one.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF,
                   struct.pack("@HP", len(program), ctypes.addressof(code)))


def listens_on(one: socket.socket) -> tuple[str, tuple[str, int]] | None:
    """("udp" or "tcp", (host, port)) of a listening socket as `open_listener` makes it; None for any other."""
    try:
        if one.family not in (socket.AF_INET, socket.AF_INET6) or (
                not one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)):
            return None
        if one.type == socket.SOCK_STREAM:
            if not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return None
            proto = "tcp"
        elif one.type == socket.SOCK_DGRAM:
            with contextlib.suppress(OSError):
                one.getpeername()
                return None                     # connected: it hears one peer only
            proto = "udp"
        else:
            return None
        host, port = one.getsockname()[:2]
        one.setblocking(False)
    except OSError:
        return None
    return proto, (host, port)


def silence(one: socket.socket) -> None:
    """Let a listening socket receive nothing new: other sockets of its SO_REUSEPORT group get it.

    What a closed socket had queued is lost; a connected one hears its peer only and stays readable. The peer is
    discard (RFC 863) at its own address, which never speaks. An address that is not here hears nothing anyway.
    """
    host = one.getsockname()[0]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if one.family == socket.AF_INET else "::1"
    with contextlib.suppress(OSError):
        one.connect((host, DISCARD))


def open_server(address: Endpoint, source: str | None, buffer: int) -> socket.socket:
    """A UDP socket connected to a server from a random port, with its errors queued (IP_RECVERR).

    Raises OSError when there is no route now; the caller tries again later.
    """
    one = socket.socket(address.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if one.family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        else:
            one.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        set_buffers(one, buffer)
        _no_path_mtu(one)
        if source is not None:
            one.bind((source, 0))
        one.connect((address.host, address.port))
    except OSError:
        one.close()
        raise
    return one


def sockets_per_server(servers: int) -> int:
    """How many sockets each worker has toward each server: many for few servers, few for many."""
    return max(2, min(16, 1024 // max(servers, 1)))
