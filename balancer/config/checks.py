"""What no single setting can know: names, addresses and sockets that must fit each other. Pure.

The checks read the merged tree, not the models, so that they speak together with the mistakes in single
values. What a value's own check refuses is passed over here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from balancer.config import spelling, values
from balancer.config.explain import Finding
from balancer.config.merging import Tree
from balancer.config.model import SERVERS_MAX
from balancer.config.positions import KeyPath
from balancer.config.values import Endpoint

T = TypeVar("T")

SOCKETS_MAX = 1024


class Place(NamedTuple):
    """A listen address: where it is written, of which service."""

    endpoint: Endpoint
    path: KeyPath


def conflicts(tree: Tree) -> Iterator[Finding]:
    """Every contradiction between settings."""
    services = list(_tables(tree, (), "service"))
    listening = [place for path, service in services for place in _listening(path, service)]
    yield from _unique(services, "name", _text, "services")
    taken: dict[Endpoint | None, KeyPath] = dict(listening)
    yield from _listen_once(listening)
    for path, service in services:
        servers = list(_tables(service, path, "server"))
        yield from _unique(servers, "name", _text, "servers of this service")
        yield from _unique(servers, "address", values.parse_endpoint, "servers of this service")
        yield from _sockets(path, servers)
        for server_path, server in servers:
            yield from _loop(server_path, server, taken)
            yield from _families(server_path, server)


def _unique(
    tables: list[tuple[KeyPath, Tree]], key: str, read: Callable[[str], object], among: str
) -> Iterator[Finding]:
    seen: dict[object, KeyPath] = {}
    for path, table in tables:
        value = _read(table.get(key), read)
        if value is None:
            continue
        if value in seen:
            message = f"{spelling.key_path(seen[value])} has the same; it must be unique among the {among}"
            yield Finding((*path, key), spelling.value(table[key]), message)
        else:
            seen[value] = path


def _listen_once(listening: list[Place]) -> Iterator[Finding]:
    """One address for one service; a wildcard takes all addresses of its family and port."""
    exact: dict[Endpoint, KeyPath] = {}
    wild: dict[tuple[int, int], Place] = {}
    for endpoint, path in listening:
        if endpoint in exact:
            message = f"{spelling.key_path(exact[endpoint])} is the same address; each is listened on once"
            yield Finding(path, f'"{endpoint}"', message)
            continue
        exact[endpoint] = path
        if endpoint.wildcard:
            wild[endpoint.family, endpoint.port] = Place(endpoint, path)
    for endpoint, path in exact.items():
        every = wild.get((endpoint.family, endpoint.port))
        if every and not endpoint.wildcard and every.path[:2] != path[:2]:
            other = spelling.key_path(every.path)
            message = f'"{every.endpoint}" of {other} takes this address for another service'
            yield Finding(path, f'"{endpoint}"', message)


def _loop(path: KeyPath, server: Tree, listening: dict[Endpoint | None, KeyPath]) -> Iterator[Finding]:
    address = _read(server.get("address"), values.parse_endpoint)
    if address in listening:
        listen = spelling.key_path(listening[address])
        message = f"is {listen}, queries would go round for ever; the server's own address is needed"
        yield Finding((*path, "address"), f'"{address}"', message)


def _families(path: KeyPath, server: Tree) -> Iterator[Finding]:
    address = _read(server.get("address"), values.parse_endpoint)
    source = _read(server.get("source"), values.parse_address)
    if address and source and (":" in source) != (":" in address.host):
        family = "an IPv6" if ":" in address.host else "an IPv4"
        message = f"not of the server address's family; {family} address is needed"
        yield Finding((*path, "source"), f'"{source}"', message)


def _sockets(path: KeyPath, servers: list[tuple[KeyPath, Tree]]) -> Iterator[Finding]:
    """Answers are looked up by (socket, id); the memory for that is bounded by the sockets of a service."""
    if not servers or len(servers) > SERVERS_MAX:
        return
    automatic = min(max(SOCKETS_MAX // len(servers), 2), 16)
    wanted = [server.get("sockets", 0) for _, server in servers]
    chosen = [n for n in wanted if isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= 64]
    total = sum(chosen) + automatic * (len(wanted) - len(chosen))
    if chosen and total > SOCKETS_MAX:
        message = f"the servers' sockets add up to {total}; at most {SOCKETS_MAX} per service are allowed"
        yield Finding((*path, "server"), None, message)


def _listening(path: KeyPath, service: Tree) -> Iterator[Place]:
    listen = service.get("listen")
    for index, raw in enumerate(listen if isinstance(listen, list) else []):
        endpoint = _read(raw, values.parse_endpoint)
        if endpoint:
            yield Place(endpoint, (*path, "listen", index))


def _tables(tree: Tree, path: KeyPath, key: str) -> Iterator[tuple[KeyPath, Tree]]:
    listed: Any = tree.get(key)
    for index, table in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(table, dict):
            yield (*path, key, index), table


def _text(text: str) -> str:
    return text


def _read(raw: object, parse: Callable[[str], T]) -> T | None:
    try:
        return parse(raw) if isinstance(raw, str) else None
    except ValueError:
        return None
