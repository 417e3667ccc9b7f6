"""Checks that concern more than one setting. Used while loading.

They look at the raw document, not at the models, so that they find their mistakes even where others exist;
a value that is itself wrong is passed over here, as its own rule reports it.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

from balancer.config.positions import Path
from balancer.config.values import ADDRESS, LISTEN, MAIL_SERVER, NAME, PREFIX, SERVER, Endpoint, Rule

Finding = tuple[Path, str]

WILDCARDS = ("0.0.0.0", "::")


def _valid(rule: Rule, value: Any) -> Any:
    try:
        return rule(value)
    except ValueError:
        return None


def _tables(table: dict[str, Any], key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    value = table.get(key)
    if isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, dict):
                yield index, item


def _servers(service: dict[str, Any], at: Path, ours: dict[Endpoint, str]) -> Iterator[Finding]:
    names: dict[str, int] = {}
    addresses: dict[Endpoint, int] = {}
    for index, server in _tables(service, "server"):
        path = (*at, "server", index)
        name = _valid(NAME, server.get("name"))
        if name is not None and names.setdefault(name, index) != index:
            yield (*path, "name"), f"is already the name of server[{names[name]}] of this service"
        address = _valid(SERVER, server.get("address"))
        if address is None:
            continue
        if addresses.setdefault(address, index) != index:
            other = f"server[{addresses[address]}]"
            yield (*path, "address"), f"is already the address of {other} of this service"
        if address in ours:
            yield (*path, "address"), f"is our own ({ours[address]}): queries would go in circles"
        source = _valid(ADDRESS, server.get("source"))
        if source is not None and Endpoint(source, 0).family != address.family:
            family = "IPv6" if ":" in address.host else "IPv4"
            yield (*path, "source"), f"must be an {family} address, as the server's address is"


def _primary(service: dict[str, Any], at: Path) -> Iterator[Finding]:
    primary = _valid(NAME, service.get("primary"))
    if primary is None:
        return
    names = [_valid(NAME, server.get("name")) for _, server in _tables(service, "server")]
    if primary not in names:
        known = ", ".join(name for name in names if name)
        yield (*at, "primary"), f"must be the name of a server of this service ({known})"


def _swallowed(listen: dict[Endpoint, tuple[int, int]]) -> Iterator[Finding]:
    """A wildcard takes every address of its family and port, so another service cannot have one of them."""
    wildcards = {(each.family, each.port): each for each in listen if each.host in WILDCARDS}
    for endpoint, (index, number) in listen.items():
        every = wildcards.get((endpoint.family, endpoint.port))
        if every is not None and endpoint != every and listen[every][0] != index:
            other = f"service[{listen[every][0]}].listen[{listen[every][1]}]"
            yield ("service", index, "listen", number), f"is taken by {every} of another service ({other})"


def _items(table: dict[str, Any], key: str) -> list[Any]:
    value = table.get(key)
    return value if isinstance(value, list) else []


def _admin(admin: dict[str, Any], ours: dict[Endpoint, str]) -> Iterator[Finding]:
    """HTTP listens on TCP, and so do the services."""
    allow = [_valid(PREFIX, item) for item in _items(admin, "allow")]
    outside = None in allow or any(not prefix.is_loopback for prefix in allow)
    seen = dict(ours)
    for number, item in enumerate(_items(admin, "listen")):
        path: Path = ("admin", "listen", number)
        endpoint = _valid(LISTEN, item)
        if endpoint is None:
            continue
        here = f"admin.listen[{number}]"
        if seen.setdefault(endpoint, here) != here:
            yield path, f"is already listened on ({seen[endpoint]})"
        elif not (outside or endpoint.host in WILDCARDS or ip_address(endpoint.host).is_loopback):
            yield path, 'would answer nobody: admin.allow has no prefix beyond loopback, such as "192.0.2.0/24"'


def _login(alerts: Any) -> Iterator[Finding]:
    if not isinstance(alerts, dict):
        return
    for one, other in (("smtp_user", "smtp_password_file"), ("smtp_password_file", "smtp_user")):
        if one in alerts and other not in alerts:
            yield ("alerts", one), f"needs {other} beside it"
    server = _valid(MAIL_SERVER, alerts.get("smtp", "127.0.0.1:25"))
    here = server is None or server.host in ("localhost", "127.0.0.1", "::1")
    if "smtp_user" in alerts and alerts.get("smtp_tls", "none") == "none" and not here:
        yield ("alerts", "smtp_user"), 'needs smtp_tls = "starttls" or "tls" (the password would go in clear)'


def find_contradictions(document: dict[str, Any]) -> Iterator[Finding]:
    """Each setting that contradicts another one, with what is wrong with it."""
    names: dict[str, int] = {}
    listen: dict[Endpoint, str] = {}
    first: dict[Endpoint, tuple[int, int]] = {}
    for index, service in _tables(document, "service"):
        name = _valid(NAME, service.get("name"))
        if name is not None and names.setdefault(name, index) != index:
            yield ("service", index, "name"), f"is already the name of service[{names[name]}]"
        for number, item in enumerate(_items(service, "listen")):
            endpoint = _valid(LISTEN, item)
            here = f"service[{index}].listen[{number}]"
            if endpoint is not None and listen.setdefault(endpoint, here) != here:
                yield ("service", index, "listen", number), f"is already listened on ({listen[endpoint]})"
            elif endpoint is not None:
                first[endpoint] = (index, number)
    yield from _swallowed(first)
    for index, service in _tables(document, "service"):
        yield from _servers(service, ("service", index), listen)
        yield from _primary(service, ("service", index))
    admin = document.get("admin")
    yield from _admin(admin if isinstance(admin, dict) else {}, listen)
    yield from _login(document.get("alerts"))
