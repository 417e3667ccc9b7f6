"""Entry of the health process: probes what the table lists, judges, writes the verdicts, tells what has changed.

Pure parts: verdict, schedule, staleness, question. This file has the clock, the sockets' owner and the table.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import dns.rcode

from balancer.component import Event, Host, Service
from balancer.config import Endpoint
from balancer.table.verdicts import DOWN, PROTOCOLS, SPARED, UNKNOWN, UP, Found
from balancer.table.view import serving_state, suspects
from health import zones
from health.config import Health
from health.exchange import Exchange, Exchanges
from health.probe import result, serials
from health.question import Expected, Question, alive, foreign, soa
from health.schedule import Due, Pace, first_probe, next_probe
from health.staleness import CURRENT, STALE, Copy
from health.verdict import Change, Result, Rules, Severity, Standing, spared

TICK = 0.02                 # seconds between looks at deadlines, at who is due, at what the workers suspect
PUBLISH = 1.0               # seconds between two snapshots
RECURSION = 60.0            # seconds between two looks whether a server is an open resolver
ZONES_LOOK = 10.0           # seconds between two looks whether the file of the zones has changed
CALM = 1.0                  # seconds without a suspicion until that is told
MOST_TOLD = 200             # zones in the snapshot
EVENT_BURST, EVENT_RATE = 100.0, 10.0   # well below what the supervisor takes of one process
MOST_EVENTS = 10_000        # that wait
NOTHING_LISTED = zones.Listing([], (), None)

TCP = PROTOCOLS.index("tcp")


class Where(NamedTuple):
    """Whom to ask, and from which address ("": any)."""

    host: str
    port: int
    source: str


class Place(NamedTuple):
    """A server of a service: what is found of its target is said of it."""

    service: int
    slot: int
    identity: int
    service_name: str
    name: str

    @property
    def subject(self) -> str:
        return f"{self.service_name}/{self.name}"


@dataclass
class Target:
    """One address that is probed, whichever services have it. standings: by protocol."""

    where: Where
    places: list[Place] = field(default_factory=list)
    standings: tuple[Standing, Standing] = field(default_factory=lambda: (Standing(), Standing()))
    probed: list[float] = field(default_factory=lambda: [0.0, 0.0])
    latency: list[float] = field(default_factory=lambda: [0.0, 0.0])
    busy: list[bool] = field(default_factory=lambda: [False, False])
    copies: dict[str, Copy] = field(default_factory=dict)
    serials: dict[str, tuple[int, float]] = field(default_factory=dict)     # zone → serial, when
    turn: int = 0                       # in the rotation of zones_from
    suspected_until: float = 0.0
    suspected_why: str = ""
    unsaid: str = ""                    # why its state has changed, while nobody was told yet
    recursion: float = 0.0              # when it was last looked for

    @property
    def suspected(self) -> bool:
        return self.suspected_until > 0


class Prober:
    """All of it, for one process."""

    def __init__(self, host: Host) -> None:
        assert host.verdicts is not None
        self._host, self._verdicts, self._table = host, host.verdicts, host.table
        self._clock, self._channel = host.clock, host.channel
        self._chance = random.Random()
        self._exchanges = Exchanges(host.clock)
        self._due: Due[tuple[Where, int]] = Due()
        self._targets: dict[Where, Target] = {}
        self._generation = -1
        self._told: dict[str, str] = dict(host.snapshot.get("told", {}))    # "kind subject" → state, but the good ones
        self._probes: Counter[str] = Counter(host.snapshot.get("probes", {}))
        self._changes = int(host.snapshot.get("changes", 0))
        self._listed = NOTHING_LISTED
        self._listed_at = 0.0
        self._foreign = foreign()
        self._master: Where | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._published = 0.0
        self._spared: frozenset[tuple[Place, int]] = frozenset()
        self._changed = False           # some verdict, and the workers do not know yet
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._tokens = EVENT_BURST
        self._placed: dict[tuple[int, int], Target] = {}
        self._suspects: set[Where] = set()
        self.configure(host.config, host.services)

    # Configuration and table

    def configure(self, config: Health, services: Iterable[Service]) -> None:
        """Obey this section; what is known of the servers stays."""
        self._config, self._services = config, tuple(services)
        self._pace = Pace(config.interval, config.fast_interval)
        self._rules = Rules(config.fall, config.rise, config.flap_period)
        self._fixed = [soa(zone) for zone in config.zones] + [
            Question(check.name, check.type, Expected(int(dns.rcode.from_text(check.rcode)),
                                                      answers=frozenset(check.answers)))
            for check in config.checks]
        self._rotation: dict[str, Question] = {}
        self._listed_at = 0.0
        if config.zones_from not in self._listed.files:
            self._listed = NOTHING_LISTED
        self._generation = -1

    def _survey(self) -> None:
        """Whom the table lists now."""
        config = self._table.config
        self._generation = config.generation
        sources = {(service.name, server.name): server.source for service in self._services
                   for server in service.servers}
        before, self._targets = self._targets, {}
        named: dict[str, Where] = {}
        for number in config.services:
            service_name = config.service_name(number)
            for entry in config.servers(number):
                if entry.state != "present":
                    continue
                host, _, port = entry.address.rpartition(":")
                where = Where(host.strip("[]"), int(port), sources.get((service_name, entry.name), ""))
                place = Place(number, entry.slot, entry.identity, service_name, entry.name)
                self._target(where, before, place).places.append(place)
                named.setdefault(entry.name, where)
        self._choose_master(named, before)
        for where in before.keys() - self._targets.keys():
            for proto in range(len(PROTOCOLS)):
                self._due.drop((where, proto))
        self._placed = {place[:2]: target for target in self._targets.values() for place in target.places}
        self._suspects &= self._targets.keys()
        self._forget_gone()
        self._spare()
        for target in self._targets.values():
            if target.where not in before and DOWN in [standing.verdict for standing in target.standings]:
                # A predecessor's last words may not have been heard; hearing them twice does no harm.
                self._tell_servers(target, target.standings[0].reason or target.standings[1].reason)

    def _forget_gone(self) -> None:
        """What was told of servers and zones that are not looked at any more ends."""
        subjects = {place.subject for target in self._targets.values() for place in target.places}
        watched = set(self._config.zones)
        for target in self._targets.values():
            if self._config.zones_from is None:
                target.copies = {zone: copy for zone, copy in target.copies.items() if zone in watched}
        for key in list(self._told):
            kind, subject, *zone = key.split(" ")
            gone = kind in ("server", "zone", "recursion") and subject not in subjects
            gone = gone or (kind == "zone" and self._config.zones_from is None and zone[0] not in watched)
            gone = gone or (kind == "recursion" and self._config.recursion_check == "off")
            if gone or (kind == "master" and subject != str(self._config.master)):
                before = self._told.pop(key)
                self._say(kind, " ".join([subject, *zone]), before, "gone", "not looked at any more")

    def _target(self, where: Where, before: dict[Where, Target], place: Place | None = None) -> Target:
        target = self._targets.get(where)
        if target is not None:
            return target
        target = self._targets[where] = before.get(where) or Target(where)
        target.places = []
        if where not in before:
            if place is not None:
                self._resume(target, place)
            for proto in range(len(PROTOCOLS)):
                self._due.set((where, proto), first_probe(self._pace, self._clock(), self._chance.random()))
        return target

    def _resume(self, target: Target, place: Place) -> None:
        """Go on from what a predecessor found, as long as that still counts."""
        found = self._verdicts.read(place.service, place.slot, place.identity, time.monotonic_ns())
        for standing, one in zip(target.standings, found, strict=True):
            if one.verdict == UNKNOWN:
                continue
            standing.verdict = UP if one.verdict == UP else DOWN
            standing.severity = Severity.NONE if one.verdict == UP else Severity.DEAD
            standing.since, standing.reason = one.since_ns / 1e9, one.reason
            standing.returned = one.returned_ns / 1e9 or None

    def _choose_master(self, named: dict[str, Where], before: dict[Where, Target]) -> None:
        master = self._config.master
        if isinstance(master, Endpoint):
            here = [where for where in self._targets if (where.host, where.port) == (master.host, master.port)]
            self._master = here[0] if here else Where(master.host, master.port, "")
            self._target(self._master, before)
        else:
            self._master = named.get(master) if master is not None else None
            if master is not None and self._master is None:
                self._host.log(f"no server is named {master}: serials are not compared")

    # Time

    def tick(self) -> None:
        """What time brings."""
        now = self._clock()
        self._verdicts.beat(time.monotonic_ns())
        if self._table.config.generation != self._generation:
            self._survey()
        self._look_at_zones(now)
        self._hear_workers(now)
        self._exchanges.expire()
        if self._changed:
            self._spare()
        for where, proto in self._due.take(self._clock()):
            self._begin(self._targets[where], proto)
        self._tokens = min(EVENT_BURST, self._tokens + TICK * EVENT_RATE)
        self._emit()
        if now - self._published >= PUBLISH:
            self._published = now
            self._channel.publish(self.snapshot())

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

    def _questions(self, target: Target) -> list[Question]:
        questions = list(self._fixed)
        if self._listed.zones:
            target.turn = (target.turn + 1) % len(self._listed.zones)
            zone = self._listed.zones[target.turn]
            if zone not in self._config.zones:
                questions.append(self._rotation.setdefault(zone, soa(zone)))
        return questions or [alive()]

    def _begin(self, target: Target, proto: int) -> None:
        if target.busy[proto]:
            return
        target.busy[proto] = True
        where = target.where
        began = self._clock()
        if proto != TCP and self._config.recursion_check == "on" and began - target.recursion >= RECURSION:
            target.recursion = began
            self._exchanges.begin("udp", *where, [self._foreign], self._config.timeout,
                                  lambda exchange: self._on_recursion(target, exchange))
        self._exchanges.begin(PROTOCOLS[proto], *where, self._questions(target), self._config.timeout,
                              lambda exchange: self._on_end(target, proto, exchange))

    def _on_end(self, target: Target, proto: int, exchange: Exchange) -> None:
        target.busy[proto] = False
        if self._targets.get(target.where) is not target:
            return
        now = exchange.ended
        found = result(exchange)
        served = serials(exchange)
        if proto != TCP:
            target.serials.update((zone, (serial, now)) for zone, serial in served.items())
            self._compare(target, served, now)
        stale = [zone for zone, copy in target.copies.items() if copy.state == STALE]
        if found.good and stale and self._config.stale_is_down == "on":
            found = Result(Severity.STALE, f"{min(stale)} is behind the master", found.latency)
        target.probed[proto] = now
        if found.latency is not None:
            target.latency[proto] = found.latency
        self._probes[f"{PROTOCOLS[proto]} {_outcome(found)}"] += 1
        standing = target.standings[proto]
        change = standing.take(found, self._rules, now, found.silent and self._heard(target, exchange.began))
        self._due.set((target.where, proto), next_probe(
            self._pace, exchange.began, now, standing.troubled or (found.silent and not standing.failures),
            self._chance.random()))
        self._write(target)
        if proto != TCP and target.where == self._master:
            self._on_master(target)
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
        self._changes += 1
        self._changed = True
        lasted = f"; was {change.before} for {_duration(change.lasted)}" if change.lasted else ""
        self._tell_servers(target, f"{PROTOCOLS[proto]}: {change.reason}{lasted}")

    def _on_recursion(self, target: Target, exchange: Exchange) -> None:
        opinion = exchange.opinions[0]
        if opinion is None:
            return
        state = "open" if opinion.ra else "closed"
        for place in target.places:
            self._tell("recursion", place.subject, "closed", state,
                       f"{self._foreign} was answered for us: the server resolves foreign names" if opinion.ra else "")

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
            target = self._targets[where]
            began = bool(refused) and not target.suspected
            if refused:
                target.suspected_until = now + CALM
                target.suspected_why = ("clients' queries are refused" if any(refused) else
                                        "clients' queries are not answered, while others answer theirs")
                self._suspects.add(where)
            elif now >= target.suspected_until:
                target.suspected_until = 0.0
                self._suspects.discard(where)
            for proto, standing in enumerate(target.standings):
                if standing.suspect(bool(refused)):
                    self._due.set((target.where, proto), now)
            if began or not target.suspected:
                self._tell_servers(target, target.suspected_why if began else "clients' queries are answered again")

    # What is said

    def _write(self, target: Target) -> None:
        for place in target.places:
            for proto, standing in enumerate(target.standings):
                verdict = standing.verdict
                if verdict == DOWN and (place, proto) in self._spared:
                    verdict = SPARED
                self._verdicts.write(place.service, place.slot, place.identity, proto, Found(
                    verdict, _ns(standing.since), _ns(standing.returned), _ns(target.probed[proto]),
                    _ns(target.latency[proto]), standing.reason))

    def _spare(self) -> None:
        """Decide who stays in use although it is down, and let the workers know all of it."""
        self._changed = False
        config = self._table.config
        kept: set[tuple[Place, int]] = set()
        placed = {place[:3]: (place, target) for target in self._targets.values() for place in target.places}
        for number in config.services:
            inside = [placed[number, entry.slot, entry.identity] for entry in config.servers(number)
                      if entry.state == "present" and entry.weight and (number, entry.slot, entry.identity) in placed]
            for proto in range(len(PROTOCOLS)):
                chosen = spared({place.slot: target.standings[proto] for place, target in inside},
                                config.min_alive(number))
                kept |= {(place, proto) for place, _ in inside if place.slot in chosen}
        self._spared = frozenset(kept)
        for target in self._targets.values():
            self._write(target)
        self._verdicts.publish()

    def _tell_servers(self, target: Target, reason: str) -> None:
        state = serving_state([Found(standing.verdict) for standing in target.standings], target.suspected)
        # One protocol alone is told when the other is settled: a server that dies is down, not degraded first.
        target.unsaid = reason if state == "degraded" and any(one.moving for one in target.standings) else ""
        if target.unsaid:
            return
        for place in target.places:
            self._tell("server", place.subject, "up", state, reason)

    def _tell(self, kind: str, subject: str, good: str, state: str, reason: str) -> None:
        """An event, when this is another state than the one told before; `good` is what nobody was told of."""
        key = f"{kind} {subject}"
        before = self._told.get(key, good)
        if state == before:
            return
        if state == good:
            del self._told[key]
        else:
            self._told[key] = state
        self._published = 0.0           # a successor must know
        self._say(kind, subject, before, state, reason)

    def _say(self, kind: str, subject: str, before: str, state: str, reason: str) -> None:
        self._events.append(Event(time.time(), kind, subject, before, state, reason))
        self._emit()

    def _emit(self) -> None:
        """Tell what waits, not faster than the supervisor takes it: of many at once none shall be lost."""
        while self._events and self._tokens >= 1:
            self._tokens -= 1
            self._channel.emit(self._events.popleft())

    # Serials

    def _compare(self, target: Target, served: dict[str, int], now: float) -> None:
        if self._master is None or target.where == self._master:
            return
        master = self._targets[self._master]
        fresh = 3 * self._config.interval + self._config.timeout
        for zone, serial in served.items():
            known, at = master.serials.get(zone, (None, 0.0))
            if zone not in self._config.zones:
                fresh = max(fresh, 3 * self._config.interval * len(self._listed.zones))
            copy = target.copies.setdefault(zone, Copy())
            move = copy.compare(serial, known if now - at <= fresh else None, self._config.stale_after, now)
            if move is not None:
                what = (f"serial {move.served}, the master's is {move.master}" if move.after != CURRENT else
                        f"serial {move.served}, was behind for {_duration(move.lasted)}")
                for place in target.places:
                    self._tell("zone", f"{place.subject} {zone}", CURRENT, move.after, what)
            if copy.state == CURRENT:
                del target.copies[zone]

    def _on_master(self, target: Target) -> None:
        standing = target.standings[0]
        state = "unreachable" if standing.failures >= self._config.fall else "up"
        self._tell("master", str(self._config.master), "up", state,
                   f"{standing.reason}: serials are not compared" if state != "up" else "serials are compared again")

    # Zones of a file

    def _look_at_zones(self, now: float) -> None:
        if self._config.zones_from is None or now - self._listed_at < ZONES_LOOK:
            return
        self._listed_at = now
        task = asyncio.get_running_loop().create_task(self._read_zones(self._config.zones_from))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read_zones(self, path: str) -> None:
        try:
            found = await asyncio.to_thread(_listing, path, self._listed)
        except (OSError, ValueError) as error:
            self._tell("zones", path, "ok", "failed", str(error))
            return
        self._tell("zones", path, "ok", "ok", "read again")
        if found is not self._listed and path == self._config.zones_from:
            self._listed, self._rotation = found, {}
            self._host.log(f"{path}: {len(found.zones)} zones")

    # What is published

    def snapshot(self) -> dict[str, Any]:
        """The present state as plain data; "told", "probes" and "changes" are a successor's, too."""
        behind = [{"server": place.subject, "zone": zone, "state": copy.state, "behind": round(copy.behind, 3)}
                  for target in self._targets.values() for zone, copy in target.copies.items()
                  for place in target.places][:MOST_TOLD]
        known = [{"server": place.subject, "zone": zone, "serial": target.serials[zone][0]}
                 for target in self._targets.values() for zone in self._config.zones if zone in target.serials
                 for place in target.places][:MOST_TOLD]
        master = None if self._master is None else self._targets[self._master].standings[0].verdict
        return {"told": self._told, "probes": dict(self._probes), "changes": self._changes,
                "targets": len(self._targets), "zones": len(set(self._config.zones) | set(self._listed.zones)),
                "master": {"name": str(self._config.master or ""), "verdict": master}, "behind": behind,
                "serials": known}


def _listing(path: str, known: zones.Listing) -> zones.Listing:
    """The file's zones; what is known when nothing has changed."""
    return known if known.files and zones.stamp(known.files) == known.stamp else zones.read(path)


def _outcome(found: Result) -> str:
    return "good" if found.good else "refused" if found.refused else "silent" if found.silent else "wrong"


def _ns(seconds: float | None) -> int:
    return int(seconds * 1e9) if seconds else 0


def _duration(seconds: float | None) -> str:
    rest = max(0, round(seconds or 0))
    if rest < 60:
        return f"{rest} s"
    if rest < 3600:
        return f"{rest // 60} min {rest % 60} s"
    if rest < 86400:
        return f"{rest // 3600} h {rest % 3600 // 60} min"
    return f"{rest // 86400} d {rest % 86400 // 3600} h"


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
