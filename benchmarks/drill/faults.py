"""What breaks in the drill, in this order, and what must be seen of it. Pure but for what is done to the site.

A step is over when ns7 told what it should, when the mails that it owes have arrived, and when `until` holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.drill.site import SERVERS, ZONE, Site
from benchmarks.drill.watching import Seen

BAD = ("down", "degraded")
VIP_NAME = "192.0.2.90"


@dataclass(frozen=True)
class Sign:
    """An event in which ns7 on a host says that something has come into one of these states."""

    host: str
    kind: str
    subject: str
    after: tuple[str, ...]

    def matches(self, seen: Seen) -> bool:
        return (seen.host, seen.kind, seen.subject) == (self.host, self.kind, self.subject) and seen.after in self.after


@dataclass(frozen=True)
class Step:
    """`do` breaks or mends something and returns when (seconds since 1970), None for: when it was called.

    noticed: the event that counts. mails: patterns, each of which a mail must match. by: the director that must answer
    for the virtual address. served: both servers must serve what was edited. until: what must hold in the end.
    """

    what: str
    do: Callable[[Site], float | None]
    noticed: Sign
    mails: tuple[str, ...] = ()
    by: str = ""
    served: bool = False
    until: Callable[[Site], bool] = lambda site: True


@dataclass(frozen=True)
class Fault:
    """Something breaks, and is mended."""

    name: str
    steps: tuple[Step, ...]


def server(host: str, name: str, *after: str) -> Sign:
    """What a director says of a server."""
    return Sign(host, "server", f"ns7/{name}", after)


def active(host: str) -> Sign:
    """A director takes the address."""
    return Sign(host, "failover", VIP_NAME, ("active",))


def said(host: str, words: str) -> str:
    """A pattern for a mail from a host."""
    return f"ns7 on {host},(.|\n)*{words}"


def publish(site: Site) -> None:
    """Edit and refresh, and do not wait."""
    site.edit()
    site.start_refresh()


def lose_puller(site: Site) -> float:
    at = site.kill("ns7c2", "ns7")
    publish(site)
    return at


def lose_publisher(site: Site) -> float:
    at = site.kill("ns7c1", "rsyncd")
    publish(site)
    return at


def stop_tcp(site: Site) -> None:
    for name in SERVERS:
        site.network.drop(name, f"ip daddr {site.network[name].address4} tcp dport 53")


def allow_tcp(site: Site) -> None:
    for name in SERVERS:
        site.network.allow(name)


def cut(name: str, what: str, noticed: Sign, mails: tuple[str, ...], back: Sign, mails_back: tuple[str, ...],
        by: str = "", by_back: str = "") -> Fault:
    """A host's link goes down at the switch, and comes back."""
    return Fault(f"cut-{name}", (
        Step(f"{what} {name} cut off", lambda site: site.network.cut(name), noticed, mails, by),
        Step(f"{name} back on the net", lambda site: site.network.mend(name), back, mails_back, by_back,
             until=Site.is_well)))


FAULTS = (
    Fault("server", (
        Step("real server ns7c2 killed", lambda site: site.kill("ns7c2", "named"), server("ns7c0", "ns7c2", *BAD),
             (said("ns7c0", "server ns7/ns7c2 is (down|degraded)"),)),
        Step("real server ns7c2 back", lambda site: site.start_named("ns7c2"), server("ns7c0", "ns7c2", "up"),
             (said("ns7c0", "server ns7/ns7c2 is up"),), until=Site.is_well))),
    Fault("edit", (
        Step("zone edited, ns7 refresh", publish, Sign("ns7c2", "sync", "pull", ("current",)), served=True),)),
    Fault("director", (
        Step("director ns7c0 killed", lambda site: site.kill("ns7c0", "ns7"), active("ns7c1"),
             (said("ns7c1", f"failover {VIP_NAME} is active"), said("ns7c1", "standby director is missing")), "ns7c1"),
        Step("director ns7c0 back", lambda site: site.start_ns7("ns7c0"), active("ns7c0"),
             (said("ns7c0", f"failover {VIP_NAME} is active"), said("ns7c1", "standby director is present")), "ns7c0",
             until=Site.is_well))),
    Fault("stale", (
        Step("ns7 on ns7c2 killed, zone edited: stale", lose_puller,
             Sign("ns7c0", "zone", f"ns7/ns7c2 {ZONE}", ("behind", "stale")),
             (said("ns7c0", f"zone ns7/ns7c2 {ZONE} is stale"),)),
        Step("ns7 on ns7c2 back", lambda site: site.start_ns7("ns7c2"),
             Sign("ns7c0", "zone", f"ns7/ns7c2 {ZONE}", ("current",)),
             (said("ns7c0", f"zone ns7/ns7c2 {ZONE} is current"),), served=True, until=Site.is_well))),
    Fault("publisher", (
        Step("sync master gone, zone edited", lose_publisher, Sign("ns7c2", "sync", "pull", ("failed",)),
             (said("ns7c2", "sync pull is failed"),)),
        Step("sync master back", lambda site: site.start_rsyncd(), Sign("ns7c2", "sync", "pull", ("current",)),
             (said("ns7c2", "sync pull is current"),), served=True, until=Site.is_well))),
    Fault("tcp", (
        Step("TCP of both real servers dead", stop_tcp, server("ns7c0", "ns7c1", *BAD),
             (said("ns7c0", "server ns7/ns7c1 is degraded"), said("ns7c0", "server ns7/ns7c2 is degraded"))),
        Step("TCP of both real servers back", allow_tcp, server("ns7c0", "ns7c1", "up"),
             (said("ns7c0", "server ns7/ns7c1 is up"), said("ns7c0", "server ns7/ns7c2 is up")), until=Site.is_well))),
    cut("ns7c0", "director", active("ns7c1"),
        (said("ns7c1", f"failover {VIP_NAME} is active"), said("ns7c1", "standby director is missing")),
        active("ns7c0"), (said("ns7c1", "standby director is present"),), "ns7c1", "ns7c0"),
    cut("ns7c1", "real server and standby", server("ns7c0", "ns7c1", *BAD),
        (said("ns7c0", "server ns7/ns7c1 is (down|degraded)"), said("ns7c0", "standby director is missing")),
        server("ns7c0", "ns7c1", "up"),
        (said("ns7c0", "server ns7/ns7c1 is up"), said("ns7c0", "standby director is present"))),
    cut("ns7c2", "real server", server("ns7c0", "ns7c2", *BAD), (said("ns7c0", "server ns7/ns7c2 is (down|degraded)"),),
        server("ns7c0", "ns7c2", "up"), (said("ns7c0", "server ns7/ns7c2 is up"),)),
)
