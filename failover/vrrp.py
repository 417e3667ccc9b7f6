"""Who holds the address: the state machine of VRRPv3 (RFC 9568 §6.4) for one virtual router.

Pure: knows neither sockets nor frames nor clocks. `now` is CLOCK_MONOTONIC in seconds and an argument; what shall be
done is returned as a list of `Act`s, in the order in which it shall be done. Whoever drives it tells what it hears,
calls `on_time` when `wake` has come, and answers a `CLAIM` with `on_claimed` or `on_failed`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import ip_address
from typing import NamedTuple

# Priorities (RFC 9568 §5.2.4: 0 says "I leave", 255 is the owner's). A director that cannot serve has the least,
# whatever is configured, so two of them still serve from one; what an operator has asked for stands at the ends.
LEAVING, UNFIT, RELEASED, LEAST, MOST, TAKEN = 0, 1, 2, 3, 253, 254
DOWN_ADVERTS = 3                # missed adverts after which an active director counts as dead (RFC 9568 §6.1)
PROBE_WAIT = 0.05               # seconds in which an answer to a probe may come
CLAIM_WAIT = 1.0                # seconds in which the kernel must have taken the address
LEAVE_WAIT = 1.0                # seconds in which another director must have taken over
ASSERT_GAP = 0.1                # seconds between two answers to lower adverts, whoever sends how many


class State(Enum):
    """The states of RFC 9568 (Backup, Active), and those between them."""

    BACKUP = "standby"          # hears another director, or waits
    PROBING = "probing"         # is about to take over from one that lives, and asks who has the address
    CLAIMING = "claiming"       # the address is being added
    ACTIVE = "active"           # has the address
    LEAVING = "leaving"         # has said so, and answers until another one has the address
    ENDED = "ended"


class Act(Enum):
    """What shall be done."""

    ADVERT = auto()             # send one with the priority as it is now
    FAREWELL = auto()           # send one of priority 0
    PROBE = auto()              # ask the link who has the address
    CLAIM = auto()              # add the address
    ANNOUNCE = auto()           # tell the link that it is here
    YIELD = auto()              # finish what is in flight, then remove the address


class Input(Enum):
    """What can happen. An advert is one of five, by its priority beside ours, and if that is equal by its sender."""

    TIMER = auto()
    ZERO = auto()
    LOWER = auto()
    EQUAL_LOW = auto()          # equal priority, the sender's address is the lower one
    EQUAL_HIGH = auto()
    HIGHER = auto()
    CLAIMED = auto()
    FAILED = auto()             # the address could not be added, or is somebody else's
    TAKE = auto()
    LEAVE = auto()
    STALL = auto()              # we stood still for longer than we may


class Heard(NamedTuple):
    """An advert that was found to be valid. interval is in seconds, source the sender's address."""

    priority: int
    interval: float
    source: str


@dataclass(frozen=True)
class Settings:
    """What is configured. interval is in seconds, address the one that adverts are sent from."""

    priority: int
    interval: float
    preempt: bool
    address: str


class Machine:
    """One director of a virtual router. `changed(active, reason)` is called when it becomes active or standby."""

    def __init__(self, settings: Settings, changed: Callable[[bool, str], None]) -> None:
        self.settings = settings
        self._changed = changed
        self.state = State.BACKUP
        self.fit = True
        self.wish = "auto"                          # or "taken", "released": what the operator asked for
        self.wake = 0.0
        self.peer = ""                              # the active director that was heard last
        self.peer_priority = 0
        self.heard_at = float("-inf")
        self._peer_interval = settings.interval     # Active_Adver_Interval (RFC 9568 §6.1), as learnt
        self._lower_until = self._asserted_at = float("-inf")
        self._active = self._stopping = False
        self._reason = ""

    # What it is

    @property
    def active(self) -> bool:
        """Whether this director has said that it holds the address."""
        return self._active

    @property
    def priority(self) -> int:
        """What its adverts say."""
        if not self.fit:
            return UNFIT
        return {"taken": TAKEN, "released": RELEASED}.get(self.wish, self.settings.priority)

    @property
    def skew(self) -> float:
        """Skew_Time in seconds (RFC 9568 §6.1): the better director waits shorter."""
        return (256 - self.priority) * self._peer_interval / 256

    @property
    def down_interval(self) -> float:
        """Active_Down_Interval in seconds (RFC 9568 §6.1)."""
        return DOWN_ADVERTS * self._peer_interval + self.skew

    # Life

    def start(self, now: float, active: bool = False) -> list[Act]:
        """Begin as a standby, or go on where an active predecessor has just stopped."""
        if active:
            self._active = True
            return self._to_active(now, "")
        return self._to_backup(now)

    def stop(self, now: float) -> list[Act]:
        """Leave for good."""
        self._stopping = True
        return self._step(Input.LEAVE, now)

    # What happens

    def on_advert(self, heard: Heard, now: float) -> list[Act]:
        """A valid advert of another director."""
        if heard.priority:
            self.peer, self.peer_priority, self.heard_at = heard.source, heard.priority, now
        return self._step(self._class(heard), now, heard)

    def _class(self, heard: Heard) -> Input:
        if heard.priority == LEAVING:
            return Input.ZERO
        if heard.priority != self.priority:
            return Input.HIGHER if heard.priority > self.priority else Input.LOWER
        ours, theirs = ip_address(self.settings.address), ip_address(heard.source)
        return Input.EQUAL_HIGH if (theirs.version, int(theirs)) > (ours.version, int(ours)) else Input.EQUAL_LOW

    def on_time(self, now: float) -> list[Act]:
        """`wake` may have come."""
        return self._step(Input.TIMER, now) if now >= self.wake else []

    def on_stall(self, now: float) -> list[Act]:
        """The timer is late by more than adverts may be: nothing that is remembered is true any more."""
        return self._step(Input.STALL, now)

    def on_claimed(self, now: float) -> list[Act]:
        """The address is on this host."""
        return self._step(Input.CLAIMED, now)

    def on_failed(self, now: float, reason: str) -> list[Act]:
        """The address cannot be had."""
        self._reason = reason
        return self._step(Input.FAILED, now)

    def set_fit(self, fit: bool, now: float) -> list[Act]:
        """Whether this director can serve."""
        return self._set(now, fit=fit)

    def ask(self, wish: str, now: float) -> list[Act]:
        """An operator's wish: "taken" (hold it, whatever is configured), "released" (leave it to others), "auto"."""
        acts = self._set(now, wish=wish)
        if wish == "taken":
            return [*acts, *self._step(Input.TAKE, now)]
        return [*acts, *self._step(Input.LEAVE, now)] if wish == "released" else acts

    def _set(self, now: float, fit: bool | None = None, wish: str | None = None) -> list[Act]:
        before = self.priority
        self.fit, self.wish = self.fit if fit is None else fit, wish or self.wish
        if self.priority == before or self.state is not State.ACTIVE or self.wish == "released":
            return []
        return self._advertise(now)

    # The table: what an input does in a state. What is not there does nothing: it is late, or means nothing then.
    #
    #            timer    zero     lower    equal    higher   claimed  failed   take     leave    stall
    # backup     rise     hasten   wait     follow   follow                     probe    end      again
    # probing    claim    claim             follow   follow            give up           end      again
    # claiming   give up                    yield*   yield    hold     give up           yield    claim
    # active     advert   assert   assert   assert*  yield             give up           farewell claim
    # leaving    remain            hand     hand     hand                       hold
    #
    # * by address: against the lower one we assert (claiming: go on), to the higher one we yield.
    #
    # rise: nobody was heard: claim. Somebody lower was heard: probe, then claim (preemption). In both the address is
    # added and announced before the first advert, so whoever yields to it is not asked any more.

    def _step(self, what: Input, now: float, heard: Heard | None = None) -> list[Act]:
        handler = TABLE.get((self.state, what))
        return handler(self, now, heard) if handler is not None else []

    def _to_backup(self, now: float) -> list[Act]:
        self.state = State.BACKUP
        self.wake = now + self.down_interval
        return []

    def _to_active(self, now: float, reason: str) -> list[Act]:
        self.state = State.ACTIVE
        self._peer_interval = self.settings.interval
        if not self._active:
            self._active = True
            self._changed(True, reason)
        return [Act.ANNOUNCE, *self._advertise(now)]

    def _to_standby(self, now: float, reason: str) -> list[Act]:
        """Let go of the address."""
        self._to_backup(now)
        if self._active:
            self._active = False
            self._changed(False, reason)
        if self._stopping:
            self.state = State.ENDED
        return [Act.YIELD]

    def _advertise(self, now: float) -> list[Act]:
        self.wake = now + self.settings.interval
        return [Act.ADVERT]

    def _rise(self, now: float, heard: Heard | None) -> list[Act]:
        if now <= self._lower_until:
            self._reason = f"better than {self.peer} (priority {self.priority}, {self.peer_priority} there)"
            return self._probe(now, heard)
        self._reason = "nobody else was heard"
        if self.peer:
            self._reason = f"no advert from {self.peer} for {now - self.heard_at:.2f} s"
        return self._claim(now, heard)

    def _hasten(self, now: float, heard: Heard | None) -> list[Act]:
        # RFC 9568 §6.4.2: whoever leaves is followed after Skew_Time.
        self.wake = min(self.wake, now + self.skew)
        self._lower_until = float("-inf")
        return []

    def _wait(self, now: float, heard: Heard | None) -> list[Act]:
        assert heard is not None
        if not self.settings.preempt and heard.priority != UNFIT:
            return self._follow(now, heard)
        self._lower_until = now + DOWN_ADVERTS * heard.interval
        return []

    def _follow(self, now: float, heard: Heard | None) -> list[Act]:
        assert heard is not None
        self._peer_interval = heard.interval
        self._lower_until = float("-inf")
        return self._to_backup(now)

    def _again(self, now: float, heard: Heard | None) -> list[Act]:
        return self._to_backup(now)

    def _take(self, now: float, heard: Heard | None) -> list[Act]:
        self._reason = "asked for by an operator"
        return self._probe(now, heard)

    def _probe(self, now: float, heard: Heard | None) -> list[Act]:
        self.state = State.PROBING
        self.wake = now + PROBE_WAIT
        return [Act.PROBE]

    def _claim(self, now: float, heard: Heard | None) -> list[Act]:
        self.state = State.CLAIMING
        self.wake = now + CLAIM_WAIT
        return [Act.CLAIM]

    def _reclaim(self, now: float, heard: Heard | None) -> list[Act]:
        self._reason = "this host stood still"
        return self._claim(now, heard)

    def _give_up(self, now: float, heard: Heard | None) -> list[Act]:
        return self._to_backup(now) if self.state is State.PROBING else self._to_standby(now, self._reason)

    def _hold(self, now: float, heard: Heard | None) -> list[Act]:
        return self._to_active(now, self._reason)

    def _advert(self, now: float, heard: Heard | None) -> list[Act]:
        return self._advertise(now)

    def _assert(self, now: float, heard: Heard | None) -> list[Act]:
        # RFC 9568 §6.4.3 : the other one hears of us at once; and the link's caches may be its own by now.
        if now - self._asserted_at < ASSERT_GAP:
            return []
        self._asserted_at = now
        return [*self._advertise(now), Act.ANNOUNCE]

    def _yield(self, now: float, heard: Heard | None) -> list[Act]:
        assert heard is not None
        self._peer_interval = heard.interval
        self._lower_until = float("-inf")
        # Both were active: ours is the last word, so that the other one hears of it and tells the link anew.
        last = [Act.ADVERT] if self.state is State.ACTIVE else []
        return last + self._to_standby(now, f"{heard.source} is better (priority {heard.priority}, "
                                            f"{self.priority} here)")

    def _farewell(self, now: float, heard: Heard | None) -> list[Act]:
        self.state = State.LEAVING
        self.wake = now + LEAVE_WAIT
        return [Act.FAREWELL]

    def _hand(self, now: float, heard: Heard | None) -> list[Act]:
        assert heard is not None
        self._peer_interval = heard.interval
        return self._to_standby(now, f"released to {heard.source}")

    def _remain(self, now: float, heard: Heard | None) -> list[Act]:
        if self._stopping:
            return self._to_standby(now, "stopped; nobody took over")
        self.wish = "auto"
        return self._to_active(now, "")

    def _end(self, now: float, heard: Heard | None) -> list[Act]:
        if self._stopping:
            return self._to_standby(now, "stopped")
        return self._to_backup(now)

    def _drop(self, now: float, heard: Heard | None) -> list[Act]:
        return self._to_standby(now, "stopped" if self._stopping else "released")


Handler = Callable[[Machine, float, "Heard | None"], list[Act]]
At, On, Do = State, Input, Machine
TABLE: dict[tuple[State, Input], Handler] = {
    (At.BACKUP, On.TIMER): Do._rise, (At.BACKUP, On.ZERO): Do._hasten, (At.BACKUP, On.LOWER): Do._wait,
    (At.BACKUP, On.EQUAL_LOW): Do._follow, (At.BACKUP, On.EQUAL_HIGH): Do._follow, (At.BACKUP, On.HIGHER): Do._follow,
    (At.BACKUP, On.TAKE): Do._take, (At.BACKUP, On.LEAVE): Do._end, (At.BACKUP, On.STALL): Do._again,
    (At.PROBING, On.TIMER): Do._claim, (At.PROBING, On.ZERO): Do._claim, (At.PROBING, On.EQUAL_LOW): Do._follow,
    (At.PROBING, On.EQUAL_HIGH): Do._follow, (At.PROBING, On.HIGHER): Do._follow, (At.PROBING, On.FAILED): Do._give_up,
    (At.PROBING, On.LEAVE): Do._end, (At.PROBING, On.STALL): Do._again,
    (At.CLAIMING, On.TIMER): Do._give_up, (At.CLAIMING, On.EQUAL_HIGH): Do._yield, (At.CLAIMING, On.HIGHER): Do._yield,
    (At.CLAIMING, On.CLAIMED): Do._hold, (At.CLAIMING, On.FAILED): Do._give_up, (At.CLAIMING, On.LEAVE): Do._drop,
    (At.CLAIMING, On.STALL): Do._claim,
    (At.ACTIVE, On.TIMER): Do._advert, (At.ACTIVE, On.ZERO): Do._assert, (At.ACTIVE, On.LOWER): Do._assert,
    (At.ACTIVE, On.EQUAL_LOW): Do._assert, (At.ACTIVE, On.EQUAL_HIGH): Do._yield, (At.ACTIVE, On.HIGHER): Do._yield,
    (At.ACTIVE, On.LEAVE): Do._farewell, (At.ACTIVE, On.STALL): Do._reclaim, (At.ACTIVE, On.FAILED): Do._give_up,
    (At.LEAVING, On.TIMER): Do._remain, (At.LEAVING, On.LOWER): Do._hand, (At.LEAVING, On.EQUAL_LOW): Do._hand,
    (At.LEAVING, On.EQUAL_HIGH): Do._hand, (At.LEAVING, On.HIGHER): Do._hand, (At.LEAVING, On.TAKE): Do._hold,
}
