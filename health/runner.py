"""Entry of the health process: probes whom the roster lists, judges, writes the verdicts, has the report tell of them.

Pure parts: verdict, schedule, staleness, question, probe. This file has the clock and the table's verdicts.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable

from balancer.component import Host, Service, lapse
from balancer.table.verdicts import DOWN, PROTOCOLS, UNKNOWN
from health.asked import Asked
from health.config import Health
from health.exchange import Exchange, Exchanges
from health.probe import result, serials
from health.question import foreign
from health.report import Report
from health.roster import Roster
from health.schedule import Due, Pace, first_probe, next_probe
from health.staleness import CURRENT, STALE, Copy
from health.target import Target, Where
from health.traffic import Spoken, Traffic
from health.verdict import Change, Result, Rules, Severity
from health.writing import Writer

TICK = 0.01                 # seconds between looks at deadlines, at who is due, at what the workers suspect
PUBLISH = 1.0               # seconds between two snapshots
RECURSION = 60.0            # seconds between two looks whether a server is an open resolver
CALM = 1.0                  # seconds without a suspicion until that is told
UDP, TCP = range(len(PROTOCOLS))


class Prober:
    """All targets of one process."""

    def __init__(self, host: Host) -> None:
        assert host.verdicts is not None
        self._host, self._verdicts, self._clock = host, host.verdicts, host.clock
        self._chance = random.Random()
        self._exchanges = Exchanges(host.clock)
        self._report = Report(host.channel.emit, host.clock, host.snapshot)
        self._asked = Asked(host.log, self._report.file)
        self._roster = Roster(host.table.config, host.log)
        self._writer = Writer(host.table.config, host.verdicts, self._roster)
        self._traffic = Traffic(host.table)
        self._due: Due[tuple[Where, int]] = Due()
        self._watched: set[Where] = set()   # whom clients' queries spoke against lately
        self._published = 0.0
        self._foreign = foreign()
        self.configure(host.config, host.services)

    # Configuration and table

    def configure(self, config: Health, services: Iterable[Service]) -> None:
        """Obey this section; what is known of the servers stays."""
        self._config = config
        self._pace = Pace(config.interval, config.fast_interval)
        self._rules = Rules(config.fall, config.rise, config.flap_period)
        self._asked.configure(config)
        self._roster.configure(services, config.master)

    def _survey(self) -> None:
        """Whom the table lists now."""
        moved = self._roster.survey()
        if moved is None:
            return
        come, gone = moved
        for target in come:
            self._welcome(target)
        for target in gone:
            for proto in (UDP, TCP):
                self._due.drop((target.where, proto))
        self._watched &= self._roster.targets.keys()
        compared = self._roster.master is not None
        for target in self._roster.targets.values():
            target.copies = {zone: copy for zone, copy in target.copies.items()
                             if compared and self._asked.watches(zone)}
        self._report.forget(self._config, self._asked, self._roster)
        self._writer.settle()
        self._writer.write_all()
        for target in come:
            if DOWN in [standing.verdict for standing in target.standings]:
                # A predecessor's last words may not have been heard; hearing them twice does no harm.
                self._report.server(target, target.standings[UDP].reason or target.standings[TCP].reason)

    def _welcome(self, target: Target) -> None:
        """Go on from what a predecessor found, and ask soon."""
        if target.places:
            found = self._verdicts.read(*target.places[0][:3], time.monotonic_ns())
            for one, known in zip(target.probed, found, strict=True):
                one.resume(known)
        for proto in (UDP, TCP):
            self._due.set((target.where, proto), first_probe(self._pace, self._clock(), self._chance.random()))

    # Time

    def tick(self) -> None:
        """What time brings."""
        now = self._clock()
        self._verdicts.beat(time.monotonic_ns())
        self._survey()
        self._asked.look(now)
        self._hear_clients(now)
        self._exchanges.expire()
        for where, proto in self._due.take(self._clock()):
            self._begin(self._roster.targets[where], proto)
        if self._writer.changed:
            self._writer.settle()
        if self._report.flush() or now - self._published >= PUBLISH:
            self._published = now
            self._host.channel.publish(self._report.snapshot(self._config, self._asked, self._roster))

    def on_readable(self) -> None:
        """Answers have arrived."""
        self._exchanges.on_readable()
        if self._writer.changed:
            self._writer.settle()

    def fileno(self) -> int:
        """Readable when `on_readable` has something to do."""
        return self._exchanges.fileno()

    def close(self) -> None:
        """Stop asking. The verdicts stay as they are."""
        self._exchanges.close()

    # Probes

    def _begin(self, target: Target, proto: int) -> None:
        if target.probed[proto].under_way is not None:
            return
        now, timeout = self._clock(), self._config.timeout
        if proto == UDP and self._config.recursion_check == "on" and (
                target.recursion_looked == 0 or now - target.recursion_looked >= RECURSION):
            target.recursion_looked = now
            self._exchanges.begin("udp", *target.where, [self._foreign], timeout,
                                  lambda exchange: self._on_recursion(target, exchange))
        exchange = self._exchanges.begin(PROTOCOLS[proto], *target.where, self._asked.questions(target), timeout,
                                         lambda exchange: self._on_end(target, proto, exchange))
        target.probed[proto].under_way = None if exchange.over else exchange

    def _hasten(self, target: Target, proto: int, now: float) -> None:
        """Ask now, and once more what has been asked."""
        under_way = target.probed[proto].under_way
        if under_way is not None:
            self._exchanges.hurry(under_way)
        self._due.set((target.where, proto), now)

    def _on_end(self, target: Target, proto: int, exchange: Exchange) -> None:
        probed, now = target.probed[proto], exchange.ended
        probed.under_way = None
        if self._roster.targets.get(target.where) is not target:
            return
        found = result(exchange)
        if proto == UDP:
            self._compare(target, serials(exchange), now)
        stale = [zone for zone, copy in target.copies.items() if copy.state == STALE]
        if found.good and stale and self._config.stale_is_down == "on":
            found = Result(Severity.STALE, f"{min(stale)} is behind the master", found.latency)
        probed.ended = now
        probed.latency = found.latency or probed.latency
        self._report.probes[f"{PROTOCOLS[proto]} {_outcome(found)}"] += 1
        standing = probed.standing
        # Clients' datagrams say nothing of TCP.
        heard = proto == UDP and found.silent and self._traffic.heard(target, exchange.began)
        change = standing.take(found, self._rules, now, heard)
        self._due.set((target.where, proto), next_probe(
            self._pace, exchange.began, now, standing.troubled, self._chance.random()))
        self._writer.write(target, proto)
        if proto == UDP and target.where == self._roster.master:
            udp = target.standings[UDP]
            self._report.master(str(self._config.master), udp.reason, udp.failures >= self._config.fall)
        if change is not None:
            self._on_change(target, proto, change)
        elif target.unsaid:
            self._report.server(target, target.unsaid)

    def _on_change(self, target: Target, proto: int, change: Change) -> None:
        self._report.changes += change.before != UNKNOWN
        self._writer.changed = True
        lasted = f"; was {change.before} for {lapse(change.lasted)}" if change.lasted is not None else ""
        self._report.server(target, f"{PROTOCOLS[proto]}: {change.reason}{lasted}")

    def _on_recursion(self, target: Target, exchange: Exchange) -> None:
        opinion = exchange.opinions[0]
        if opinion is not None:
            self._report.recursion(target, opinion)

    def _compare(self, target: Target, served: dict[str, int], now: float) -> None:
        """The serials that a target has served, beside the master's."""
        target.serials.update((zone, (serial, now)) for zone, serial in served.items())
        if self._roster.master is None or target.where == self._roster.master:
            return
        master = self._roster.targets[self._roster.master].serials
        for zone, serial in served.items():
            known, at = master.get(zone, (None, 0.0))
            if now - at > self._asked.patience(zone, self._config.interval) + self._config.timeout:
                known = None
            copy = target.copies.setdefault(zone, Copy())
            move = copy.compare(serial, known, self._config.stale_after, now)
            if copy.state == CURRENT:
                del target.copies[zone]
            if move is not None:
                self._report.zone(target, zone, move)
            elif copy.state == CURRENT and known is not None:
                self._report.current(target, zone)

    # Clients

    def _hear_clients(self, now: float) -> None:
        """Whom clients' queries speak against is probed at once; a suspicion is told."""
        spoken = self._traffic.look(self._roster.placed, now)
        for where in self._watched | spoken.keys():
            target = self._roster.targets[where]
            self._heed(target, spoken.get(where) or Spoken(target, suspected=False, refused=False, doubted=False), now)
        self._watched = {where for where in self._watched | spoken.keys()
                         if where in spoken or self._roster.targets[where].suspected}

    def _heed(self, target: Target, said: Spoken, now: float) -> None:
        hasten = said.doubted and not target.doubted and now - target.hastened >= self._config.fast_interval
        if hasten:
            target.hastened = now
        target.doubted = said.doubted and (target.doubted or hasten)
        for proto, standing in enumerate(target.standings):
            standing.doubted = said.doubted
            if standing.suspect(said.suspected) or (hasten and standing.verdict != DOWN):
                self._hasten(target, proto, now)
        if said.suspected:
            target.suspected_until = now + CALM
            if not target.suspected:
                target.suspected = True
                self._report.server(target, "clients' queries are refused" if said.refused else
                                    "clients' queries are not answered, while others answer theirs")
        elif target.suspected and now >= target.suspected_until:
            target.suspected = False
            self._report.server(target, "clients' queries are answered again")


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
