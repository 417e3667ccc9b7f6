"""What `ns7 sample-config named` prints: the options of a name server behind ns7. Used by a command.

The statements are those of BIND 9.18's reference manual, chapter 8; docs/name-servers.md tells why each is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from balancer.config import Config

_SAMPLE = """\
// A name server behind ns7: what belongs into its named.conf. docs/name-servers.md tells more.
// Queries come from the directors; named never sees the clients' addresses.

acl directors {{ {directors} }};      // every address that ns7 asks from{guess}

options {{
    // The hosts' own addresses only: a virtual one is ns7's, also when it comes to this host later.
{listen}
    automatic-interface-scan no;

    // Whoever may ask ns7 comes from a director's address, so a list of addresses lets all in or nobody. Clients are
    // chosen by [service.admit] of ns7; here transfers and updates ask for a key.
    recursion no;
    allow-query {{ any; }};
    allow-transfer {{ none; }};           // {{ key "transfer"; }};

    // All of ns7's clients would be limited as if they were one; who asks this host itself is still limited.
    rate-limit {{ responses-per-second 20; exempt-clients {{ directors; }}; }};

    // A client's queries go to any of the servers, and each must know the cookies of all: the same secret everywhere.
    require-server-cookie no;
//  cookie-secret "32 hexadecimal digits";      // openssl rand -hex 16

    // ns7 opens up to tcp_connections ({connections}) to this server; the rest is for those who ask it itself.
    tcp-clients {tcp_clients};
}};
"""
SPARE_TCP = 100             # connections that are not ns7's
DIRECTORS = ("192.0.2.87", "192.0.2.88")
SERVERS = ("192.0.2.88", "192.0.2.89")


def sample_text(config: Config | None = None) -> str:
    """The statements, for the servers of this configuration; without one for documentation addresses."""
    servers = [server for service in config.services for server in service.servers] if config else []
    sources = dict.fromkeys(str(server.source) for server in servers if server.source)
    own = dict.fromkeys(server.address.host for server in servers) or dict.fromkeys(SERVERS)
    four, six = [one for one in own if ":" not in one], [one for one in own if ":" in one]
    connections = max((server.tcp_connections for server in servers), default=100)
    return _SAMPLE.format(
        directors=_list(sources or DIRECTORS), guess="" if sources else ": put yours here",
        listen="\n".join([f"    listen-on {{ {_list(['127.0.0.1', *four])} }};",
                          f"    listen-on-v6 {{ {_list(['::1', *six])} }};"]),
        connections=connections, tcp_clients=connections + SPARE_TCP)


def _list(items: Iterable[str]) -> str:
    return " ".join(f"{item};" for item in items)
