"""What is wrong with the servers as this director sees them, from facts. Pure; `doctor` collects them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from balancer.component import Finding

SKEW, FUDGE = 10.0, 300.0       # seconds; the second is what RFC 8945 §10 recommends for TSIG
FILE = "/etc/bind/named.conf.options"
BEGIN = r"(^|[\n;}])\s*options\s*\{"         # of the options in it, for sed -Ez
COOKIE_BYTES = 16               # of a server's cookie as RFC 9018 §4 has it: version, reserved, time, hash


def set_option(name: str, value: str, server: str) -> str:
    """The command that sets an option of BIND where the server is."""
    words = r"\{[^}]*\}" if value.startswith("{") else "[^;{]+"
    return (rf"sed -Ezi 's/\b{name}\s+{words};//g; s/{BEGIN}/&\n  {name} {value};/' {FILE} && rndc reconfig   "
            f"# on {server}")


class Zones(NamedTuple):
    """What [health] asks for. file: zones_from; unreadable: why ns7's user cannot read it; something: any is named."""

    file: str
    unreadable: str
    something: bool


def judge_zones(facts: Zones) -> Iterator[Finding]:
    if facts.unreadable:
        yield Finding(f"health.zones_from {facts.file} cannot be read: {facts.unreadable}",
                      "Its zones are not asked for, so a server that lost one stays in.",
                      f"setfacl -m u:ns7:r {facts.file}")
    if not facts.something:
        yield Finding("[health] names no zones: a server that answers anything at all counts as up",
                      "A server that has lost its zones goes on getting queries.",
                      "sed -i '/^\\[health\\]/a zones = [\"example.com\"]' /etc/ns7/ns7.toml   # a zone of yours")


class Answers(NamedTuple):
    """How a server answered this director. udp, tcp: why not, "" when it did; recursive: it offers recursion;
    transfers: it gave `zone` to us without a key (None: no zone is known to ask for, or no TCP)."""

    server: str
    address: str
    udp: str
    tcp: str
    recursive: bool
    transfers: bool | None
    zone: str


def judge_answers(facts: tuple[Answers, ...]) -> Iterator[Finding]:
    for each in facts:
        bad = [f"{proto} ({why})" for proto, why in (("UDP", each.udp), ("TCP", each.tcp)) if why]
        if bad:
            yield Finding(f"{each.server} at {each.address} does not answer over {' and '.join(bad)}",
                          "It cannot serve what it is sent." if len(bad) > 1 else
                          "Large answers and transfers need TCP, everything else UDP.",
                          f"systemctl restart named; ss -lnptu 'sport = :{each.address.rpartition(':')[2]}'   "
                          f"# on {each.server}", "error")
        if each.recursive:
            yield Finding(f"recursion is open on {each.server}: it offers it to this director",
                          "All clients come from the director's address, so anybody can resolve through it (and "
                          "amplify).", set_option("recursion", "no", each.server), "error")
        if each.transfers:
            yield Finding(f"transfers are open on {each.server}: it gave {each.zone} to this director without a key",
                          "Its own list sees the director's address only, so service.admit.transfer alone keeps "
                          "strangers out.", set_option("allow-transfer", "{ none; }", each.server))
    if facts and all(each.transfers is None and not each.tcp for each in facts):
        yield Finding("whether transfers are open cannot be looked at: no zone is known to ask for",
                      "What was not looked at may be wrong.",
                      "sed -i '/^\\[health\\]/a zones = [\"example.com\"]' /etc/ns7/ns7.toml   # a zone of yours",
                      "unknown")


Cookies = Mapping[str, tuple[bytes, ...]]       # by server: what it answered to the same client cookie


def comparable(facts: Cookies) -> bool:
    """Whether no further cookie is needed to tell: made in the same second they must be equal (RFC 9018 §4.4)."""
    given = [frozenset(cookie[4:8] for cookie in cookies) for cookies in facts.values() if cookies]
    return len(given) < 2 or all(seconds & given[0] for seconds in given[1:])


def judge_cookies(facts: Cookies) -> Iterator[Finding]:
    """The servers of one service. A server that answers without a cookie has an empty tuple."""
    given = {server: cookies for server, cookies in facts.items() if cookies}
    without = sorted(set(facts) - set(given))
    if len(facts) < 2 or not given:
        return
    (first, reference), *others = sorted(given.items())
    differs = [server for server, cookies in others if _differ(reference, cookies)]
    why = "A cookie from one is wrong for the other: such clients are rate limited, or must ask twice."
    fix = set_option("answer-cookie", "no", f"{', '.join(sorted(facts))}")
    if differs:
        yield Finding(f"{first} and {', '.join(differs)} have different cookie secrets", why, fix)
    elif without:
        yield Finding(f"{', '.join(without)} answers without a DNS cookie, {', '.join(sorted(given))} with one",
                      "A client that has seen cookies takes an answer without one for forged (RFC 7873 §5.3).", fix)
    elif not comparable(facts):
        yield Finding(f"whether {', '.join(sorted(given))} share a cookie secret cannot be told: their clocks differ",
                      "What was not looked at may be wrong.", "timedatectl set-ntp true   # on each", "unknown")


def _differ(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> bool:
    if {len(cookie) for cookie in one} != {len(cookie) for cookie in other}:
        return True
    mine = {cookie[:8]: cookie for cookie in one if len(cookie) == COOKIE_BYTES}
    return any(cookie[:8] in mine and mine[cookie[:8]] != cookie for cookie in other)


def judge_clocks(facts: tuple[tuple[str, float], ...]) -> Iterator[Finding]:
    """facts: (server, seconds by which its clock is ahead of ours)."""
    for server, ahead in facts:
        if abs(ahead) > SKEW:
            yield Finding(f"the clock of {server} is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} ours",
                          "TSIG allows 300 s: signed transfers, updates and NOTIFYs fail beyond it.",
                          f"timedatectl set-ntp true   # here and on {server}",
                          "error" if abs(ahead) > FUDGE else "warning")
