"""The faults, and what is held to a bar beside lost queries and the slowest answer."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import goals
from benchmarks.faults.backends import KILLABLE
from benchmarks.faults.field import MANY, Field
from benchmarks.faults.killable import KILLER
from benchmarks.faults.spoof import forge_unreachables
from benchmarks.faults.trial import KEPT, LONE, Fault, Trial
from benchmarks.report import Goal, at_least, at_most
from benchmarks.servers import ZONE

UPGRADES = 10
SLOW = 0.4  # seconds, the round trip to a server that has become slow
FORGED = 1000


def other_is_not_overrun(trial: Trial) -> Sequence[Goal]:
    """While one server is slow, the other must not get everything twice."""
    _, other = trial.shares(trial.began + 0.5, trial.ended)
    return [at_most("queries to the other, of those offered", other / trial.fault.rate, goals.LOAD_ON_OTHER)]


def ramped_up(trial: Trial) -> Sequence[Goal]:
    """A server that comes back gets little at first and its share in the end."""
    shares = []
    for since, until in ((trial.ended, trial.ended + 1), (trial.fault.seconds - 4, trial.fault.seconds)):
        back, other = trial.shares(since, until)
        shares.append(back / (back + other))
    return [
        at_most("share in the first second", shares[0], goals.SHARE_AT_RETURN),
        at_least("share in the end", shares[1], goals.SHARE_AFTER_SLOW_START),
    ]


def answered_after_return(trial: Trial) -> Sequence[Goal]:
    """What was asked while nobody was there is answered soon after one has come back."""
    last = 0.0
    for sent, taken in trial.result.each:
        if trial.began <= sent <= trial.ended:
            last = max(last, sent + (taken if taken is not None else trial.fault.seconds) - trial.ended)
    return [at_most("all answered after the return", last, goals.AFTER_RETURN, " s", 3)]


def all_upgraded(trial: Trial) -> Sequence[Goal]:
    """All of them while the load went on."""
    end = trial.result.start + trial.fault.seconds
    return [at_least("upgrades under load", sum(at < end for at in trial.upgraded), UPGRADES, digits=0)]


def two_died(trial: Trial) -> Sequence[Goal]:
    """A query that ends its servers met two of them at most, and the log names it."""
    goals_ = [at_most("servers that died", len(trial.dead), goals.SERVERS_KILLED, digits=0)]
    if trial.peer == "ns7":
        goals_.append(at_least("lines of the log that name it", trial.log.count(f"{KILLER}.{ZONE}"), 1, digits=0))
    return goals_


def refuse_both(field: Field) -> None:
    for name in field.names:
        field.refuse(name)


def drop_bad_at_both(field: Field) -> None:
    for name in field.names:
        field.drop_bad(name)


ROWS: dict[str, Fault] = {
    "killed": Fault("server killed", lambda field: field.kill("s1"), slowest=goals.NOTICED_SLOWEST, tcp=KEPT),
    "frozen": Fault(
        "server frozen, then thawed",
        lambda field: field.freeze("s1"),
        lambda field: field.thaw("s1"),
        slowest=goals.SILENT_SLOWEST,
        tcp=KEPT,
    ),
    "cut": Fault(
        "host cut off, then back",
        lambda field: field.network.cut("s1"),
        lambda field: field.network.mend("s1"),
        slowest=goals.SILENT_SLOWEST,
        tcp=KEPT,
    ),
    "dropped": Fault(
        "packets dropped, then not",
        lambda field: field.network.drop("s1"),
        lambda field: field.network.allow("s1"),
        slowest=goals.SILENT_SLOWEST,
        tcp=KEPT,
    ),
    "slow": Fault(
        "latency rises to 400 ms",
        lambda field: field.network.delay("s1", SLOW / 2),
        lambda field: field.network.delay("s1", field.latency / 2),
        slowest=goals.DELAYED_SLOWEST,
        judges=[other_is_not_overrun],
        tcp=KEPT,
    ),
    "returns": Fault(
        "server killed, comes back",
        lambda field: field.kill("s1"),
        lambda field: field.start("s1"),
        until=3.0,
        seconds=18.0,
        slowest=goals.NOTICED_SLOWEST,
        judges=[ramped_up],
        tcp=KEPT,
    ),
    "both": Fault(
        "both down, one back after 1 s",
        refuse_both,
        lambda field: field.network.allow("s1"),
        until=3.0,
        seconds=6.0,
        each=True,
        judges=[answered_after_return],
        tcp=KEPT,
    ),
    "mixed": Fault(
        "200 qps that nobody answers mixed in",
        drop_bad_at_both,
        at=0.0,
        seconds=6.0,
        rate=2_000,
        bad=200,
    ),
    "changed": Fault(
        "reload x10, drain, remove, add",
        lambda field: field.change(),
        seconds=10.0,
        slowest=goals.NOTICED_SLOWEST,
        peers=("ns7", "nginx"),
        tcp=LONE,
    ),
    "upgrade": Fault(
        f"ns7 upgrade, {UPGRADES} times, once refused",
        lambda field: field.upgrade(UPGRADES),
        seconds=60.0,
        slowest=goals.UPGRADED_SLOWEST,
        judges=[all_upgraded],
        peers=("ns7",),
        tcp=LONE,
    ),
    "restart": Fault(
        "restarted, sockets kept by the manager",
        lambda field: field.restart(),
        slowest=goals.RESTARTED_SLOWEST,
        managed=True,
    ),
    "killer": Fault(
        "a query that kills its servers, 4 of them",
        lambda field: field.ask_killer(),
        slowest=goals.SILENT_SLOWEST,
        judges=[two_died],
        servers=MANY,
        backend=KILLABLE,
        two_die=True,
    ),
    "spoofed": Fault(
        f"{FORGED:,} forged port-unreachables",
        lambda field: forge_unreachables(field.network["s1"], field.network["director"], field.addresses["s1"], FORGED),
    ),
}
