"""Whether alerts find their mail server while the service is down. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from balancer.component import Finding


class Mail(NamedTuple):
    """host: of alerts.smtp, a name; known: it is in /etc/hosts; resolvers: of /etc/resolv.conf; ours: what ns7 serves,
    or may; zone: the one of the name if our servers have it, "" else; authorities: its name servers with
    their addresses, as far as the zone has them; address: of the mail server, as it resolves now, "" when not."""

    host: str
    known: bool
    resolvers: tuple[str, ...]
    ours: frozenset[str]
    zone: str
    authorities: Mapping[str, tuple[str, ...]]
    address: str


def judge_mail(facts: Mail) -> Iterator[Finding]:
    if facts.known:
        return
    if facts.resolvers and set(facts.resolvers) <= facts.ours:
        what = (f"alerts.smtp: this host resolves {facts.host} by {', '.join(facts.resolvers)} only, which ns7 itself "
                "serves")
    elif facts.zone and facts.authorities and all(
            found and set(found) <= facts.ours for found in facts.authorities.values()):
        names = ", ".join(sorted(facts.authorities))
        what = f"alerts.smtp: the zone {facts.zone} of {facts.host} is served by {names} alone, which is ns7 itself"
    else:
        return
    fix = (f"echo '{facts.address} {facts.host}' >> /etc/hosts" if facts.address else
           "sed -i 's/^smtp = .*/smtp = \"127.0.0.1:25\"/' /etc/ns7/ns7.toml && ns7 reload")
    yield Finding(what, "When the service is down the name cannot be resolved, and no alert is mailed.", fix)
