"""Entry of the health process: probes what the table lists, judges, writes the verdicts, tells what has changed.

Pure parts: verdict, schedule, staleness, question, probe. This file has the clock, the sockets and the table.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from balancer.component import Host, Service
from balancer.config import Endpoint
from balancer.table.verdicts import DOWN, PROTOCOLS, UNKNOWN, UP, Found
from balancer.table.view import serving_state, suspects
from health.asked import Asked
from health.config import Health
from health.exchange import Exchange, Exchanges
from health.news import News, duration
from health.probe import result, serials
from health.question import foreign
from health.schedule import Due, Pace, first_probe, next_probe
from health.staleness import CURRENT, STALE, Copy
from health.target import Place, Target, Where, listed
from health.verdict import Change, Result, Rules, Severity, Standing, spared

TICK = 0.01                 # seconds between looks at deadlines, at who is due, at what the workers suspect
PUBLISH = 1.0               # seconds between two snapshots
RECURSION = 60.0            # seconds between two looks whether a server is an open resolver
CALM = 1.0                  # seconds without a suspicion until that is told
MOST_TOLD = 200             # zones in the snapshot
UDP, TCP = range(len(PROTOCOLS))


class Prober:
    """All targets of one process."""

    def __init__(self, host: Host) -> None:
        assert host.verdicts is not None
        self._host, self._verdicts, self._table, self._clock = host, host.verdicts, host.table, host.clock
        self._chance = random.Random()
        self._exchanges = Exchanges(host.clock)
        self._news = News(host.channel.emit, host.clock, host.snapshot.get("told", {}))
        self._asked = Asked(host.log, lambda path, error: self._news.tell(
            "zones", path, "ok", "failed" if error else "ok", error or "read again"))
        self._probes: Counter[str] = Counter(host.snapshot.get("probes", {}))
        self._changes = int(host.snapshot.get("changes", 0))
        self._due: Due[tuple[Where, int]] = Due()
        self._targets: dict[Where, Target] = {}
        self._placed: dict[tuple[int, int], Target] = {}        # (service, slot)
        self._suspects: set[Where] = set()
        self._spared: frozenset[tuple[Place, int]] = frozenset()
        self._changed = False               # some verdict, and the workers do not know yet
        self._master: Where | None = None
        self._generation = -1               # of the configuration that is obeyed
        self._published = 0.0
        self._foreign = foreign()
        self.configure(host.config, host.services)

    # Configuration and table

    def configure(self, config: Health, services: Iterable[Service]) -> None:
        """Obey this section; what is known of the servers stays."""
        self._config = config
        self._sources = {(service.name, server.name): server.source for service in services
                         for server in service.servers}
        self._pace = Pace(config.interval, config.fast_interval)
        self._rules = Rules(config.fall, config.rise, config.flap_period)
        self._asked.configure(config)
        self._generation = -1

    def _survey(self) -> None:
        """Whom the table lists now."""
        self._generation = self._table.config.generation
        before, self._targets = self._targets, {}
        named: dict[str, Where] = {}
        for where, place in listed(self._table.config, self._sources):
            target = self._target(where, before)
            if not target.places and where not in before:
                found = self._verdicts.read(*place[:3], time.monotonic_ns())
                for one, known in zip(target.probed, found, strict=True):
                    one.resume(known)
            target.places.append(place)
            named.setdefault(place.name, where)
        self._choose_master(named, before)
        for where in before.keys() - self._targets.keys():
            for proto in (UDP, TCP):
                self._due.drop((where, proto))
        self._placed = {place[:2]: target for target in self._targets.values() for place in target.places}
        self._suspects &= self._targets.keys()
        self._forget()
        self._spare()
        for where, target in self._targets.items():
            for proto in (UDP, TCP):
                self._write(target, proto)
            if where not in before and DOWN in [standing.verdict for standing in target.standings]:
                # A predecessor's last words may not have been heard; hearing them twice does no harm.
                self._tell_servers(target, target.standings[UDP].reason or target.standings[TCP].reason)

    def _target(self, where: Where, before: dict[Where, Target]) -> Target:
        if where not in self._targets:
            target = self._targets[where] = before.get(where) or Target(where)
            target.places = []
            if where not in before:
                for proto in (UDP, TCP):
                    self._due.set((where, proto), first_probe(self._pace, self._clock(), self._chance.random()))
        return self._targets[where]

    def _choose_master(self, named: dict[str, Where], before: dict[Where, Target]) -> None:
        master = self._config.master
        if isinstance(master, Endpoint):
            here = [where for where in self._targets if where[:2] == (master.host, master.port)]
            self._master = here[0] if here else Where(master.host, master.port, "")
            self._target(self._master, before)
        else:
            self._master = named.get(master) if master is not None else None
            if master is not None and self._master is None:
                self._host.log(f"no server is named {master}: serials are not compared")

    def _forget(self) -> None:
        """What was told of servers, zones and a master that are not looked at any more ends."""
        subjects = {place.subject for target in self._targets.values() for place in target.places}
        compared = self._master is not None
        for target in self._targets.values():
            target.copies = {zone: copy for zone, copy in target.copies.items()
                             if compared and self._asked.watches(zone)}

        def gone(kind: str, subject: str) -> bool:
            server, _, zone = subject.partition(" ")
            return {"server": server not in subjects,
                    "zone": server not in subjects or not compared or not self._asked.watches(zone),
                    "recursion": server not in subjects or self._config.recursion_check == "off",
                    "master": subject != str(self._config.master),
                    "zones": subject != self._config.zones_from}.get(kind, False)

        self._news.forget(gone)

    # Time

    def tick(self) -> None:
        """What time brings."""
        now = self._clock()
        self._verdicts.beat(time.monotonic_ns())
        if self._table.config.generation != self._generation:
            self._survey()
        self._asked.look(now)
        self._hear_workers(now)
        self._exchanges.expire()
        for where, proto in self._due.take(self._clock()):
            self._begin(self._targets[where], proto)
        if self._changed:
            self._spare()
        self._news.flush()
        if now - self._published >= PUBLISH or self._news.changed:
            self._published, self._news.changed = now, False
            self._host.channel.publish(self.snapshot())

    def on_readable(self) -> None:
        """Answers have arrived."""
        self._exchanges.on_readable()
        if self._changed:
            self._spare()

    def fileno(self) -> int:
        """Readable when `on_readable` has something to do."""
        return self._exchanges.fileno()

    def close(self) -> None:
        """Stop asking. The verdicts stay as they are."""
        self._exchanges.close()

    # Probes

    def _begin(self, target: Target, proto: int) -> None:
        if target.probed[proto].busy:
            return
        target.probed[proto].busy = True
        now, timeout = self._clock(), self._config.timeout
        if proto == UDP and self._config.recursion_check == "on" and (
                target.recursion_looked == 0 or now - target.recursion_looked >= RECURSION):
            target.recursion_looked = now
            self._exchanges.begin("udp", *target.where, [self._foreign], timeout,
                                  lambda exchange: self._on_recursion(target, exchange))
        self._exchanges.begin(PROTOCOLS[proto], *target.where, self._asked.questions(target), timeout,
                              lambda exchange: self._on_end(target, proto, exchange))

    def _on_end(self, target: Target, proto: int, exchange: Exchange) -> None:
        probed, now = target.probed[proto], exchange.ended
        probed.busy = False
        if self._targets.get(target.where) is not target:
            return
        found = result(exchange)
        if proto == UDP:
            self._compare(target, serials(exchange), now)
        stale = [zone for zone, copy in target.copies.items() if copy.state == STALE]
        if found.good and stale and self._config.stale_is_down == "on":
            found = Result(Severity.STALE, f"{min(stale)} is behind the master", found.latency)
        probed.ended = now
        probed.latency = found.latency or probed.latency
        self._probes[f"{PROTOCOLS[proto]} {_outcome(found)}"] += 1
        standing = probed.standing
        # Clients' datagrams say nothing of TCP.
        heard = proto == UDP and found.silent and self._heard(target, exchange.began)
        change = standing.take(found, self._rules, now, heard)
        self._due.set((target.where, proto), next_probe(
            self._pace, exchange.began, now, standing.troubled, self._chance.random()))
        self._write(target, proto)
        if proto == UDP and target.where == self._master:
            self._tell_master(target)
        if change is not None:
            self._on_change(target, proto, change)
        elif target.unsaid:
            self._tell_servers(target, target.unsaid)

    def _heard(self, target: Target, since: float) -> bool:
        """Whether a client's query was answered by this server over UDP after `since`."""
        since_ns = int(since * 1e9)
        return any(row.seen_well_ns(place.service, place.slot) > since_ns
                   for place in target.places for row in self._table.rows)

    def _on_change(self, target: Target, proto: int, change: Change) -> None:
        self._changes += change.before != UNKNOWN
        self._changed = True
        lasted = f"; was {change.before} for {duration(change.lasted)}" if change.lasted is not None else ""
        self._tell_servers(target, f"{PROTOCOLS[proto]}: {change.reason}{lasted}")

    def _on_recursion(self, target: Target, exchange: Exchange) -> None:
        opinion = exchange.opinions[0]
        if opinion is None:
            return
        for place in target.places:
            self._news.tell("recursion", place.subject, "closed", "open" if opinion.ra else "closed",
                            "the server resolves foreign names for us" if opinion.ra else "resolves no foreign names")

    # Workers

    def _hear_workers(self, now: float) -> None:
        """Whom clients' queries speak against: probed at once, and told."""
        now_ns = time.monotonic_ns()
        found: dict[Where, list[int]] = {where: [] for where in self._suspects}
        for number in self._table.config.services:
            for slot, refused_ns in suspects(self._table.config, self._table.rows, number, now_ns).items():
                if (number, slot) in self._placed:
                    found.setdefault(self._placed[number, slot].where, []).append(refused_ns)
        for where, refused in found.items():
            target, suspected = self._targets[where], bool(refused)
            for proto, standing in enumerate(target.standings):
                if standing.suspect(suspected):
                    self._due.set((where, proto), now)
            if suspected:
                target.suspected_until = now + CALM
            if suspected and where not in self._suspects:
                self._suspects.add(where)
                self._tell_servers(target, "clients' queries are refused" if any(refused) else
                                   "clients' queries are not answered, while others answer theirs")
            elif not suspected and now >= target.suspected_until:
                self._suspects.discard(where)
                self._tell_servers(target, "clients' queries are answered again")

    # Verdicts

    def _write(self, target: Target, proto: int) -> None:
        for place in target.places:
            found = target.probed[proto].found((place, proto) in self._spared)
            self._verdicts.write(place.service, place.slot, place.identity, proto, found)

    def _spare(self) -> None:
        """Decide who stays in use although it is down, and let the workers know all of it."""
        self._changed = False
        config, before = self._table.config, self._spared
        kept: set[tuple[Place, int]] = set()
        for number in config.services:
            inside = [(entry.ordered == "up", place, target) for entry in config.servers(number) if entry.takes_queries
                      and (target := self._placed.get((number, entry.slot)))
                      for place in target.places if place[:3] == (number, entry.slot, entry.identity)]
            for proto in (UDP, TCP):
                chosen = spared({place.slot: Standing(UP) if ordered else target.standings[proto]
                                 for ordered, place, target in inside}, config.min_alive(number))
                kept |= {(place, proto) for _, place, _ in inside if place.slot in chosen}
        self._spared = frozenset(kept)
        for place, proto in self._spared ^ before:
            target = self._placed.get(place[:2])
            if target is not None:
                self._write(target, proto)
        self._verdicts.publish()

    # What is told

    def _tell_servers(self, target: Target, reason: str) -> None:
        state = serving_state([Found(standing.verdict) for standing in target.standings],
                              target.where in self._suspects)
        # One protocol alone is told when the other is settled: a server that dies is down, not degraded first.
        target.unsaid = reason if state == "degraded" and any(one.moving for one in target.standings) else ""
        if not target.unsaid:
            for place in target.places:
                self._news.tell("server", place.subject, "up", state, reason)

    def _tell_master(self, target: Target) -> None:
        standing = target.standings[UDP]
        lost = standing.failures >= self._config.fall
        self._news.tell("master", str(self._config.master), "up", "unreachable" if lost else "up",
                        f"{standing.reason}: serials are not compared" if lost else "serials are compared again")

    # Serials

    def _compare(self, target: Target, served: dict[str, int], now: float) -> None:
        target.serials.update((zone, (serial, now)) for zone, serial in served.items())
        if self._master is None or target.where == self._master:
            return
        master = self._targets[self._master].serials
        for zone, serial in served.items():
            known, at = master.get(zone, (None, 0.0))
            fresh = now - at <= self._asked.patience(zone, self._config.interval) + self._config.timeout
            copy = target.copies.setdefault(zone, Copy())
            move = copy.compare(serial, known if fresh else None, self._config.stale_after, now)
            if copy.state == CURRENT:
                del target.copies[zone]
            if move is not None:
                what = (f"serial {move.served}, the master's is {move.master}" if move.after != CURRENT else
                        f"serial {move.served}, was behind for {duration(move.lasted)}")
                for place in target.places:
                    self._news.tell("zone", f"{place.subject} {zone}", CURRENT, move.after, what)

    # What is published

    def snapshot(self) -> dict[str, Any]:
        """The present state as plain data; "told", "probes" and "changes" are a successor's, too."""
        behind = [{"server": place.subject, "zone": zone, "state": copy.state, "behind": round(copy.behind, 3)}
                  for target in self._targets.values() for zone, copy in target.copies.items()
                  for place in target.places][:MOST_TOLD]
        known = [{"server": place.subject, "zone": zone, "serial": target.serials[zone][0]}
                 for target in self._targets.values() for zone in sorted(self._asked.zones) if zone in target.serials
                 for place in target.places][:MOST_TOLD]
        master = None if self._master is None else self._targets[self._master].standings[UDP].verdict
        return {"told": self._news.told, "probes": dict(self._probes), "changes": self._changes,
                "targets": len(self._targets), "zones": self._asked.count,
                "master": {"name": str(self._config.master or ""), "verdict": master}, "behind": behind,
                "serials": known}


def _outcome(found: Result) -> str:
    return "good" if found.good else "refused" if found.refused else "silent" if found.silent else "wrong"


async def main(host: Host) -> None:
    """Probe until told to stop."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    prober = Prober(host)
    host.channel.on_config(prober.configure)
    host.channel.on_stop(stopped.set)
    loop.add_reader(prober.fileno(), prober.on_readable)
    timer: asyncio.TimerHandle | None = None

    def tick() -> None:
        nonlocal timer
        timer = loop.call_later(TICK, tick)
        prober.tick()

    tick()
    await stopped.wait()
    assert timer is not None
    timer.cancel()
    loop.remove_reader(prober.fileno())
    prober.close()
