"""What `ns7 sample-config named` prints: the options that BIND needs where every query comes from a director.

Tried with BIND 9.18. What each option is for stands beside it, as a proxy changes what a server sees of its clients.
"""

from __future__ import annotations

from balancer.component import components
from balancer.config.model import Config

SERVER, DIRECTORS = "192.0.2.88", ("192.0.2.87", "192.0.2.88")
OTHERS = 150                # TCP clients that come to the server itself: stock BIND's limit

_OPTIONS = """\
// BIND behind ns7: /etc/bind/named.conf.options
// ns7 asks in its clients' place, so each query comes from the address of a director.
options {{
    directory "/var/cache/bind";

    // The addresses that stay on this host, never the virtual one. With "any", BIND's default, named takes the virtual
    // address when it comes here, and with it a part of the queries.
    listen-on {{ {listen4} }};
    listen-on-v6 {{ {listen6} }};
    automatic-interface-scan no;

    // Authoritative only: a list of clients that may recurse would have the directors in it, and so everybody.
    recursion no;
    allow-query {{ any; }};
    allow-query-cache {{ none; }};

    // Transfers and updates by key: a list of addresses cannot tell the directors' clients apart. ns7 forwards both
    // only from the prefixes in [service.admit]. A secondary's key: allow-transfer {{ key "secondary.example"; }};
    allow-transfer {{ none; }};

    // All clients seem to be one. Without the exemption rate limiting would drop what the directors ask.
    rate-limit {{
        responses-per-second 20;
        exempt-clients {{ 127.0.0.1; {directors} }};
    }};

    // A server's cookie is for a client's address, so here one cookie would be everybody's (RFC 7873 §5.2).
    answer-cookie no;

    // Each director keeps up to tcp_connections of them; the rest is for who comes by itself.
    tcp-clients {tcp_clients};

    dnssec-validation no;       // nothing is resolved here
}};
"""


def sample(config: Config | None) -> str:
    """For the server that is named like this host, as the file has it; documentation addresses where it has none."""
    servers = [server for service in config.services for server in service.servers] if config else []
    here = [server for server in servers if config and server.name == config.node] or servers[:1]
    own = list(dict.fromkeys(server.address.host for server in here)) or [SERVER]
    connections = max((server.tcp_connections for server in here), default=100)
    directors = (_directors(config) if config else ()) or DIRECTORS
    return _OPTIONS.format(
        listen4=_list(["127.0.0.1", *(each for each in own if ":" not in each)]),
        listen6=_list(["::1", *(each for each in own if ":" in each)]),
        directors=_list(directors), tcp_clients=len(directors) * connections + OTHERS)


def _directors(config: Config) -> tuple[str, ...]:
    """Where the directors' queries come from, as far as the file says."""
    found = [str(server.source) for service in config.services for server in service.servers if server.source]
    for name, record in components().items():
        section = getattr(config, name, None)
        if record.directors is not None and section is not None:
            found += record.directors(section)
    return tuple(dict.fromkeys(found))


def _list(addresses: list[str] | tuple[str, ...]) -> str:
    return " ".join(f"{address};" for address in dict.fromkeys(addresses))
