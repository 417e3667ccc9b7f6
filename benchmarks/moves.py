"""What is done to the directors in `./dev bench failover`, and what came of it. One function is one trial.

A trial begins with the better director active. "silent" is for how long the address was, "healed" how long it took
until all was well again (seconds); "lost", "transitions", "past" (answers that no balancer has seen) are counts.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.lab import Address
from benchmarks.load import run_dnsperf
from failover.advert import PROTOCOL
from tests.helpers.arrival import ANCILLARY, arrived, stamp
from tests.helpers.cluster import DIRECTORS, VIP, Cluster, failover_pid, signal_all
from tests.helpers.daemon import Balancer
from tests.helpers.network import DEVICE
from tests.helpers.servers import ZONE
from tests.helpers.waiting import wait_for

RATE = 1000                 # queries per second of the client
ACTIVE, STANDBY = DIRECTORS
LOOK = 0.5                  # seconds of load before anything happens
PATIENCE = 1.0              # seconds until an unanswered query is lost
STOOD_STILL = 5.0           # seconds
DEAD_ANSWERS_NO_MORE = 6.0  # seconds after which a dead host must not have the address any more
REFRESH = 5.0               # arp_refresh of the cluster in which caches are poisoned


def down_interval(interval: float) -> float:
    """Active_Down_Interval of the standby (RFC 9568 §6.1)."""
    return 3 * interval + (256 - DIRECTORS[STANDBY]) * interval / 256


@dataclass
class Field:
    """A cluster with both directors at work. seconds: how long a row without a fault takes."""

    cluster: Cluster
    peer: str
    interval: float
    seconds: float
    directors: list[Balancer] = field(default_factory=list)

    def settle(self) -> None:
        """The better director active, everybody heard."""
        self.cluster.network.mend(ACTIVE)
        if self.peer == "ns7":
            for balancer in self.directors:
                balancer.request("failover.auto")
        self.cluster.wait_holder(ACTIVE)
        wait_for("answers", self.cluster.answers)
        time.sleep(1)

    def state(self, number: int) -> dict[str, Any]:
        return self.cluster.state(self.directors[number])

    def transitions(self) -> int:
        return sum(int(self.state(number)["counts"].get("transitions", 0)) for number in range(len(self.directors)))

    def seen_by_balancers(self) -> int:
        return sum(int(each.service()["queries"]) for each in self.directors)


Trial = Callable[[Field], dict[str, float]]


def load(made: Field, what: Callable[[], object], seconds: float) -> tuple[Any, float]:
    """The result, and when `what` began, by the result's clock."""
    began: list[float] = []

    def act() -> None:
        began.append(time.monotonic())
        what()

    result = made.cluster.load(seconds, [(LOOK, act)], qps=RATE, patience=PATIENCE)
    return result, began[0] - result.start


def until(what: str, true: Callable[[], bool]) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    wait_for(what, true, every=0.005)
    return time.monotonic() - began


def _silence(made: Field, what: Callable[[], object]) -> dict[str, float]:
    result, began = load(made, what, LOOK + 2 * down_interval(made.interval) + 0.5)
    lost = [sent for sent in result.lost if sent >= began]
    return {"silent": max(lost, default=began) - began, "lost": len(result.lost)}


def cut(made: Field) -> dict[str, float]:
    """The active director's link is cut: as powered off."""
    return _silence(made, lambda: made.cluster.network.cut(ACTIVE))


def dead(made: Field) -> dict[str, float]:
    """Every process of the active director is killed; the kernel itself gives the address up."""
    began = time.monotonic()
    seen = _silence(made, lambda: signal_all(made.directors[0], signal.SIGKILL))
    time.sleep(max(0.0, began + LOOK + DEAD_ANSWERS_NO_MORE - time.monotonic()))
    seen["dead answer"] = made.cluster.holders() != [STANDBY]
    made.directors[0].kill()
    made.directors[0] = made.cluster.director(ACTIVE)
    return seen


def stop(made: Field) -> dict[str, float]:
    """`ns7 stop` on the active director."""
    result, _ = load(made, lambda: made.directors[0].request("stop"), LOOK + 1.5)
    made.directors[0].wait_ended()
    made.directors[0] = made.cluster.director(ACTIVE)
    return {"lost": len(result.lost)}


def release(made: Field) -> dict[str, float]:
    """`ns7 failover release` on the active director."""
    result, _ = load(made, lambda: made.directors[0].request("failover.release"), LOOK + 1.5)
    return {"lost": len(result.lost)}


def returns(made: Field) -> dict[str, float]:
    """The better director takes the address back."""
    made.directors[0].request("failover.release")
    made.cluster.wait_holder(STANDBY)
    result, _ = load(made, lambda: made.directors[0].request("failover.auto"), LOOK + 2.5)
    return {"lost": len(result.lost)}


def killed(made: Field) -> dict[str, float]:
    """SIGKILL of the failover process; "silent" is from there to the next advert, as the client's host hears it."""
    victim, before = failover_pid(made.directors[0]), made.transitions()
    client = made.cluster.network["client"]
    with client.socket(socket.AF_INET, socket.SOCK_RAW, PROTOCOL) as one:
        stamp(one)
        member = socket.inet_aton("224.0.0.18") + socket.inet_aton(client.address4)
        one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        at: list[float] = []

        def kill() -> None:
            at.append(time.time())
            os.kill(victim, signal.SIGKILL)

        result, _ = load(made, kill, LOOK + 2.0)
        heard = list(_stamps(one))
    time.sleep(1.5)                                     # until a spare stands ready again
    first = min((moment - at[0] for moment in heard if moment > at[0]), default=9.0)
    return {"silent": first, "lost": len(result.lost), "transitions": made.transitions() - before}


def _stamps(one: socket.socket) -> Iterator[float]:
    one.setblocking(False)
    while True:
        try:
            _, ancillary, _, _ = one.recvmsg(2048, ANCILLARY)
        except BlockingIOError:
            return
        yield arrived(ancillary)


def saturated(made: Field) -> dict[str, float]:
    """Saturating load, and nothing else happens."""
    before = made.transitions()
    queries = made.cluster.folder / "queries"
    queries.write_text("".join(f"n{number}.wild.{ZONE} A\n" for number in range(500)))
    with made.cluster.network["client"].entered():
        seen = run_dnsperf(Address(VIP, 53), queries, made.seconds)
    time.sleep(1)
    stalls = sum(made.state(number)["counts"].get("stalls", 0) for number in range(2))
    return {"lost": seen.lost, "qps": seen.qps, "transitions": made.transitions() - before, "stalls": stalls}


def stalled(made: Field) -> dict[str, float]:
    """Every process of the active director stands still for seconds, then goes on."""
    before = made.transitions()
    signal_all(made.directors[0], signal.SIGSTOP)
    time.sleep(STOOD_STILL)
    signal_all(made.directors[0], signal.SIGCONT)
    healed = until("one holder", lambda: made.cluster.holders() == [ACTIVE])
    known = until("the client knows it", lambda: made.cluster.neighbour("client") == made.cluster.mac(ACTIVE))
    time.sleep(2)
    assert made.cluster.holders() == [ACTIVE], "it has moved once more"
    return {"healed": healed, "known": healed + known, "transitions": made.transitions() - before}


def flaps(made: Field) -> dict[str, float]:
    """The active director's link goes for so long that both have the address, and comes back."""
    made.cluster.network.cut(ACTIVE)
    wait_for("both hold it", lambda: made.cluster.holders() == [ACTIVE, STANDBY])
    made.cluster.network.mend(ACTIVE)
    return {"healed": until("one holder", lambda: made.cluster.holders() == [ACTIVE])}


def past(made: Field) -> dict[str, float]:
    """The address moves to where named listens everywhere, and back: who has answered?"""
    before = made.seen_by_balancers()
    result = made.cluster.load(4, [(LOOK, lambda: made.directors[1].request("failover.takeover")),
                                   (2.0, lambda: made.directors[1].request("failover.auto"))],
                               qps=RATE, patience=PATIENCE)
    made.cluster.wait_holder(ACTIVE)
    time.sleep(0.2)                                     # until the last queries are counted
    return {"lost": len(result.lost), "past": result.answered - (made.seen_by_balancers() - before)}


def poisoned(made: Field) -> dict[str, float]:
    """Client and switch are told lies about where the address is; nobody asks for an announcement."""
    cluster, mac, wrong = made.cluster, made.cluster.mac(ACTIVE), made.cluster.mac("ns7c2")
    cluster.network["client"].ip("neigh", "replace", VIP, "lladdr", wrong, "nud", "stale", "dev", DEVICE)
    cluster.network.switch.run("bridge", "fdb", "replace", mac, "dev", "ns7c2", "master", "dynamic")

    def healed() -> bool:
        return (cluster.neighbour("client") == mac
                and f"{mac} dev {ACTIVE} " in cluster.network.switch.run("bridge", "fdb", "show"))

    return {"healed": until("the caches are right", healed)}
