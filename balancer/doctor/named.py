"""Whether BIND on this host holds an address of ours, or would take it. Pure.

named binds each address that `listen-on` allows, those too that come later: at once when it watches the interfaces
(automatic-interface-scan, the default), else at the next `rndc reload` or after interface-interval (an hour).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from balancer.component import Finding, Held
from balancer.config.values import Endpoint
from balancer.doctor.kernel import Bound
from balancer.doctor.ports import clashes
from balancer.namedconf import Statement, Word, body, parse, value, word

PORT = 53
MOST_NESTED = 16
OPTIONS = r"(^|[\n;}])\s*options\s*\{"       # where the statement begins, for sed -Ez


class Conf(NamedTuple):
    """One named: its pid (0: it does not run), what `named-checkconf -p` prints, the file that has the options."""

    pid: int
    text: str
    file: str


class Named(NamedTuple):
    """wanted: (proto, endpoint) of ours; holding: named's sockets."""

    wanted: tuple[tuple[str, Endpoint], ...]
    confs: tuple[Conf, ...]
    holding: tuple[Bound, ...]
    held: tuple[Held, ...]
    virtual: frozenset[str]


def judge_named(facts: Named) -> Iterator[Finding]:
    """One finding per named and address."""
    told = set()
    for conf in facts.confs:
        statements = parse(conf.text)
        options = next((body(each) for each in statements if word(each, 0) == "options"), [])
        acls = {word(each, 1): body(each) for each in statements if word(each, 0) == "acl"}
        for _, endpoint in facts.wanted:
            if endpoint not in told and takes(options, acls, endpoint, facts.held):
                told.add(endpoint)
                yield _finding(conf, endpoint, options, facts)
    for bound in facts.holding:
        for proto, endpoint in facts.wanted:
            if endpoint not in told and clashes(bound, proto, endpoint):
                told.add(endpoint)
                yield Finding(f"named holds {endpoint}, though its configuration does not say so",
                              "It gets a part of the queries that belong to ns7.", "rndc reconfig", "error")


def takes(options: Iterable[Statement], acls: dict[str, list[Statement]], endpoint: Endpoint,
          held: Sequence[Held]) -> bool:
    """Whether a named with these options listens on the endpoint once the address is here."""
    options = list(options)
    name = "listen-on-v6" if ":" in endpoint.host else "listen-on"
    said = [each for each in options if word(each, 0) == name]
    default = _number(value(options, "port"), PORT)
    if not said:
        return endpoint.port == default
    for each in said:
        words = [part.text for part in each if isinstance(part, Word)]
        port = _number(words[words.index("port") + 1], default) if "port" in words[:-1] else default
        if port == endpoint.port and (
                ip_address(endpoint.host).is_unspecified or covers(body(each), endpoint.host, acls, held)):
            return True
    return False


def covers(elements: Iterable[Statement], address: str, acls: dict[str, list[Statement]], held: Sequence[Held],
           depth: int = 0) -> bool | None:
    """What an address match list says of an address that is on this host: the first match counts, None is none."""
    if depth > MOST_NESTED:
        return None
    for element in elements:
        inner = body(element)
        text = word(element, 0)
        negative, text = text.startswith("!"), text.lstrip("!")
        if inner:
            matches = covers(inner, address, acls, held, depth + 1)
        elif text in acls:
            matches = covers(acls[text], address, acls, held, depth + 1)
        elif text in ("any", "localhost"):
            matches = True
        elif text == "localnets":
            matches = any(_inside(address, f"{each.address}/{each.length}") for each in held) or None
        else:
            matches = _inside(address, text) or None
        if matches is not None:
            return matches is not negative
    return None


def _inside(address: str, network: str) -> bool:
    try:
        return ip_address(address) in ip_network(network, strict=False)
    except ValueError:                          # a key, an interface, an acl that is not there
        return False


def _number(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdecimal() else default


def _finding(conf: Conf, endpoint: Endpoint, options: Iterable[Statement], facts: Named) -> Finding:
    watches = value(options, "automatic-interface-scan") not in ("no", "false", "0")
    family6 = ":" in endpoint.host
    if any(clashes(bound, proto, endpoint) for bound in facts.holding for proto in ("udp", "tcp")):
        what = f"named (pid {conf.pid}) holds {endpoint}"
    else:
        when = ("when it starts" if not conf.pid else "as soon as the address is here" if watches else
                "at its next rndc reload, or within an hour, once the address is here")
        what = f"named would take {endpoint} {when}"
    own = [each.address for each in facts.held if (":" in each.address) == family6 and each.device != "lo"
           and each.address not in facts.virtual and not ip_address(each.address).is_link_local]
    statement = "listen-on-v6" if family6 else "listen-on"
    elements = " ".join(f"{address};" for address in ["::1" if family6 else "127.0.0.1", *own])
    script = (rf"s/{statement}(\s+port\s+[0-9]+)?\s*\{{[^}}]*\}}\s*;//g; "
              rf"s/{OPTIONS}/&\n  {statement} {{ {elements} }};/")
    if watches and value(options, "automatic-interface-scan") is None:
        script += rf"; s/{OPTIONS}/&\n  automatic-interface-scan no;/"
    return Finding(what, "named and ns7 would each get a part of the queries, or ns7 cannot listen at all.",
                   f"sed -Ezi '{script}' {shlex.quote(conf.file)} && rndc reconfig", "error")
