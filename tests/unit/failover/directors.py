"""Directors without sockets: machines on a link that loses, delays and is cut, in a time of its own. Pure."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from random import Random

from failover.vrrp import LEAVING, Act, Heard, Machine, Settings, State

CLAIM_TIME, DRAIN_TIME = 0.002, 0.1


class Director:
    """A machine, and what it has done: whether the address is on it, what it announced."""

    def __init__(self, link: Link, number: int, priority: int, interval: float, preempt: bool) -> None:
        self.link, self.address = link, f"192.0.2.{number}"
        self.machine = Machine(Settings(priority, interval, preempt, self.address), self._changed)
        self.holds = False
        self.running = False
        self.announced: list[float] = []
        self.changes: list[tuple[float, bool, str]] = []
        self._yielding = 0

    def _changed(self, active: bool, reason: str) -> None:
        self.changes.append((self.link.now, active, reason))

    def start(self, active: bool = False) -> None:
        self.running = True
        self.do(self.machine.start(self.link.now, active))

    def crash(self) -> None:
        self.running = self.holds = False

    def do(self, acts: list[Act]) -> None:
        machine, link = self.machine, self.link
        for act in acts:
            match act:
                case Act.ADVERT:
                    link.send(self, machine.priority)
                case Act.FAREWELL:
                    link.send(self, LEAVING)
                case Act.CLAIM:
                    self._yielding += 1
                    link.later(CLAIM_TIME, self._claimed)
                case Act.ANNOUNCE:
                    assert self.holds, "announced without the address"
                    self.announced.append(link.now)
                case Act.YIELD:
                    self._yielding += 1
                    link.later(DRAIN_TIME, lambda number=self._yielding: self._gone(number))    # type: ignore[misc]
                case Act.PROBE:
                    pass
        if machine.state is not State.ENDED:
            link.later(max(0.0, machine.wake - link.now), self._tick)

    def _claimed(self) -> None:
        if self.running:
            self.holds = True
            self.do(self.machine.on_claimed(self.link.now))
            if not self.machine.active:
                self.holds = False

    def _gone(self, number: int) -> None:
        if number == self._yielding:
            self.holds = False

    def _tick(self) -> None:
        if self.running and self.link.now >= self.machine.wake and self.machine.state is not State.ENDED:
            self.do(self.machine.on_time(self.link.now))

    def hear(self, heard: Heard) -> None:
        if self.running and self.machine.state is not State.ENDED:
            self.do(self.machine.on_advert(heard, self.link.now))


class Link:
    """Carries adverts to everybody else; `loss` is a share, `cut` holds addresses whose cable is out."""

    def __init__(self, seed: int = 0, loss: float = 0.0, delay: float = 0.001) -> None:
        self.now, self.loss, self.delay = 100.0, loss, delay
        self.cut: set[str] = set()
        self.directors: list[Director] = []
        self.adverts: list[tuple[float, str, int]] = []
        self._chance = Random(seed)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def add(self, number: int, priority: int = 100, interval: float = 0.3, preempt: bool = True) -> Director:
        director = Director(self, number, priority, interval, preempt)
        self.directors.append(director)
        return director

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + seconds, next(self._order), call))

    def send(self, sender: Director, priority: int) -> None:
        self.adverts.append((self.now, sender.address, priority))
        heard = Heard(priority, sender.machine.settings.interval, sender.address)
        for other in self.directors:
            apart = sender.address in self.cut or other.address in self.cut
            if other is not sender and not apart and self._chance.random() >= self.loss:
                self.later(self.delay * self._chance.uniform(0.5, 1.5), lambda other=other: other.hear(heard))  # type: ignore[misc]

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, call = heapq.heappop(self._queue)
            call()
        self.now = end

    def active(self) -> list[str]:
        return [one.address for one in self.directors if one.running and one.machine.state is State.ACTIVE]

    def holders(self) -> list[str]:
        return [one.address for one in self.directors if one.holds]
