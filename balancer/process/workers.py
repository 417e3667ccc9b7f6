"""The workers, seen from the supervisor: kept running, replaced when they die or hang, exchanged for a new crew.

A spare worker, started and imported, stands ready; a worker that dies or gives no sign of life is replaced by it
within milliseconds, and it goes on with the same sockets and the same queries.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

from balancer.component import WARNING
from balancer.errors import StartError
from balancer.process.children import Child, Log, Post, Reserve, told
from balancer.process.events import Events
from balancer.process.messages import Changed, Listening, Message, Stop
from balancer.process.state import Crew, State, WorkerState

WATCH = 0.05                # seconds between looks at heartbeats
START_WAIT = 20.0           # seconds for a new crew to listen before it is given up
QUIET = 0.2                 # seconds at an end in which a TCP client that has just come may say something
STOP_GRACE = 3.0            # seconds beyond the longest timeout that a stopping worker may take


class Watch:
    """Tells when a heartbeat has stood still for too long. Pure; times are CLOCK_MONOTONIC seconds.

    Only time that the watcher itself was awake counts: one look adds at most `MOST_PER_LOOK` times the interval at
    which it looks, so a machine that stood still, or a late watcher, is no reproach to the watched.
    """

    MOST_PER_LOOK = 2.0

    def __init__(self, timeout: float, interval: float, now: float) -> None:
        self._timeout, self._most = timeout, interval * self.MOST_PER_LOOK
        self._beat = -1
        self._looked = now
        self.still = 0.0

    def look(self, beat: int, now: float) -> bool:
        """Whether the watched is hung, given its heartbeat as it is now."""
        passed, self._looked = min(now - self._looked, self._most), now
        if beat != self._beat:
            self._beat, self.still = beat, 0.0
        else:
            self.still += passed
        return self.still >= self._timeout


class Member:
    """One place of a crew."""

    def __init__(self, number: int, state: WorkerState) -> None:
        self.number, self.state = number, state
        self.listening = False
        self.watch: Watch | None = None
        self.hung = False
        self.post: Post


class Team:
    """The processes of one crew."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self.members = [Member(number, worker) for number, worker in enumerate(crew.workers)]

    @property
    def listening(self) -> bool:
        return all(member.listening for member in self.members)


class Workers:
    """`on_listening()` is called whenever all workers of the present crew have come to listen, `on_rows()` when the
    table has other rows."""

    def __init__(self, state: State, events: Events, log: Log, on_listening: Callable[[], None],
                 on_rows: Callable[[], None], restarts: int = 0) -> None:
        self._state, self._events, self._log = state, events, log
        self._on_listening, self._on_rows = on_listening, on_rows
        self._loop = asyncio.get_running_loop()
        self._reserve = Reserve("worker", log)
        self._team = self._new_team(state.crew)
        self._retiring: dict[Team, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._stopping = False
        self._past_restarts = restarts

    def start(self, children: Sequence[Child] = ()) -> None:
        """Start the first crew, of these processes if there are any."""
        self._staff(self._team, children)
        self._look()

    def _new_team(self, crew: Crew) -> Team:
        team = Team(crew)
        for member in team.members:
            member.post = Post("worker", self._log, lambda child, m=member: self._fill(team, m, child),     # type: ignore[misc]
                               lambda message, m=member: self._heard(team, m, message),                     # type: ignore[misc]
                               lambda code, final, m=member: self._ended(m, code),                          # type: ignore[misc]
                               self._reserve, until_done=True)
        return team

    def _staff(self, team: Team, children: Sequence[Child] = ()) -> None:
        for member, child in zip_longest(team.members, children):
            self._state.reach(member.state)
            member.post.fill(child)

    def _fill(self, team: Team, member: Member, child: Child) -> None:
        member.listening = member.hung = False
        member.watch = None
        self._state.hand_over(team.crew, member.state, child.send)
        if member.post.released:
            child.send(Stop())

    def _heard(self, team: Team, member: Member, message: Message) -> None:
        assert member.post.child is not None
        if not isinstance(message, Listening):
            member.post.child.disown(f"said {type(message).__name__}, which no worker says")
            return
        member.listening = True
        member.watch = Watch(self._state.config.process.worker_timeout, WATCH, self._loop.time())
        if member.post.restarts:
            self._log(f"worker {member.number} (pid {member.post.pid}) serves, "
                      f"goes on with {message.adopted} queries in flight")
        if team is self._team and team.listening:
            self._changed.set()
            self._reserve.fill()
            self._on_listening()

    def _ended(self, member: Member, code: int) -> None:
        member.listening = False
        if not self._stopping and not member.post.released:
            reason = "gave no sign of life" if member.hung else f"ended with {told(code)}"
            self._events.tell("worker", f"worker {member.number}", "up", "restarted", reason)

    # Watching

    def _look(self) -> None:
        if self._stopping:
            return
        now = self._loop.time()
        for team in (self._team, *self._retiring):
            for member in team.members:
                if member.watch is not None and member.listening and (
                        member.watch.look(member.state.row.heartbeat_ns, now)):
                    self._replace_hung(member)
        self._loop.call_later(WATCH, self._look)

    def _replace_hung(self, member: Member) -> None:
        assert member.watch is not None and member.post.child is not None
        self._log(f"{WARNING}worker {member.number} (pid {member.post.pid}): no sign of life for "
                  f"{member.watch.still:.1f} s")
        member.hung, member.watch = True, None
        member.post.child.kill()

    def healthy(self) -> bool:
        """Whether every worker serves."""
        return self._team.listening

    # Changes

    def refresh(self) -> None:
        """Let the workers obey the table, the access lists and the sockets as they are now."""
        for team in (self._team, *self._retiring):
            for member in team.members:
                self.reach(member)
                for message in (*self._state.admissions(team.crew), *self._state.tcp(team.crew)):
                    member.post.send(message)
                member.post.send(Changed())

    def reach(self, member: Member) -> bool:
        """Hand over sockets toward servers that had none. A successor gets them with the rest."""
        opened = self._state.reach(member.state)
        for message in opened:
            ends = member.state.servers[message.service, message.slot]
            member.post.send(message, [end.fileno() for end in ends])
        return bool(opened)

    def reach_all(self) -> None:
        """Try again what could not be reached."""
        for member in self._team.members:
            if self.reach(member):
                member.post.send(Changed())

    async def prepare(self, count: int) -> list[Child]:
        """Processes for a new crew, their code loaded: a socket must not be opened before somebody can read it."""
        children = [Child("worker", self._log) for _ in range(count)]
        try:
            async with asyncio.timeout(START_WAIT):
                await asyncio.gather(*(child.until_imported() for child in children))
            if ended := [child.gone.result() for child in children if not child.alive]:
                raise StartError(f"a new worker ended with {told(ended[0])}")
        except (TimeoutError, StartError) as error:
            for child in children:
                child.kill()
            raise StartError(str(error) or f"new workers are not ready after {START_WAIT:g} s") from None
        return children

    async def exchange(self, children: list[Child]) -> None:
        """Put a new crew in place of the present one: it listens first, then the old one ends in its own time.

        StartError when that takes too long; the old one goes on until it has come to pass.
        """
        old, self._team = self._team, self._new_team(self._state.crew)
        self._past_restarts += sum(member.post.restarts for member in old.members)
        self._retiring[old] = self._loop.create_task(self._retire(old))
        self._staff(self._team, children)
        self._on_rows()
        try:
            async with asyncio.timeout(START_WAIT):
                await self.until_listening()
        except TimeoutError:
            raise StartError(f"the new workers do not listen after {START_WAIT:g} s; the old ones go on") from None

    async def until_listening(self) -> None:
        """Until all workers of the present crew listen."""
        while not self._team.listening:
            self._changed.clear()
            await self._changed.wait()

    async def _retire(self, team: Team) -> None:
        await self.until_listening()
        await self._end(team, self._state.config.process.upgrade_grace)
        del self._retiring[team]
        self._state.bury(team.crew)
        self._on_rows()

    async def _end(self, team: Team, grace: float, most: float = math.inf) -> None:
        self._state.silence(team.crew)
        for member in team.members:
            member.post.release()
            member.post.send(Stop(grace, self._state.alone(team.crew, member.state)))
        longest = grace + STOP_GRACE + max((max(service.udp_timeout, 2 * service.tcp_timeout)
                                            for service in self._state.config.services), default=0.0)
        await asyncio.gather(*(member.post.ended(min(longest, most)) for member in team.members))

    async def leave(self) -> None:
        """Workers of another supervisor have come to listen: ours end in their own time."""
        await asyncio.gather(self._end(self._team, self._state.config.process.upgrade_grace),
                             *self._retiring.values())
        self._reserve.close()

    async def stop(self, most: float = math.inf) -> None:
        """End all workers, in `most` seconds: nothing new is taken, what is in flight is answered."""
        self._stopping = True
        self._reserve.close()
        for task in self._retiring.values():
            task.cancel()
        await asyncio.gather(*(self._end(team, QUIET, most) for team in (self._team, *self._retiring)))

    def kill(self) -> None:
        """End them at once."""
        for member in self._team.members:
            if member.post.child is not None:
                member.post.child.kill()

    # Status

    @property
    def retiring(self) -> int:
        """Crews that still answer what they have in flight."""
        return len(self._retiring)

    @property
    def restarts(self) -> int:
        """How often a worker was replaced since the start."""
        return self._past_restarts + sum(member.post.restarts for member in self._team.members)

    def status(self) -> list[dict[str, Any]]:
        """Every worker of the present crew."""
        return [{"worker": member.number, "pid": member.post.pid, "restarts": member.post.restarts,
                 "listening": member.listening, "heartbeat_age": member.state.heartbeat_age(),
                 "inflight": member.state.inflight()} for member in self._team.members]
