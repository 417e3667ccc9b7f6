"""The operator's hand on the servers: live changes applied, kept, told. Runs in the supervisor.

What a change is and how changes meet stands in live.py. Here is their file in the state folder, the verbs
`server.…` of the control socket, and `live` and `adopt`, by which a component carries them to another director.
Changes come one after the other, never in the midst of a reload: whoever is later sees what was before.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from balancer.component import WARNING
from balancer.durable import write_durably
from balancer.errors import ConfigError, ControlError, StartError
from balancer.process import live
from balancer.process.children import Log
from balancer.process.events import Events
from balancer.process.live import Change, Key, Live
from balancer.table.view import state_of

if TYPE_CHECKING:
    from balancer.config import Config
    from balancer.table.table import ServerEntry
    from balancer.table.view import TableView

FILE = "live.json"
LARGEST = 4 << 20
SERVING = ("up", "suspected", "degraded")
SETTINGS = ("address", "weight", "source", "sockets", "tcp_connections")    # that `add` may be told


class Overlay(NamedTuple):
    """A configuration file with live changes over it. idle: why those that do not count do not."""

    file: Config
    live: Live
    config: Config
    idle: Mapping[Key, str]


def overlay(file: Config, changes: Live) -> Overlay:
    """Lay the changes over the file. What would make a configuration that is not allowed is left out, and told."""
    from balancer.config import revise

    changes = changes.settle(file.document)
    active = changes.active()
    if not active:
        return Overlay(file, changes, file, {})
    document, idle = live.overlaid(file.document, active)
    try:
        return Overlay(file, changes, revise(file, document), idle)
    except ConfigError:
        pass                    # one of them: which, shows when they are tried one after the other
    config, idle = file, {}
    for change in active:
        document, reason = live.overlaid(config.document, [change])
        try:
            config = config if reason else revise(file, document)
        except ConfigError as error:
            reason = {change.key: "; ".join(f"{problem.path.rpartition('.')[2]} {problem.message}"
                                            for problem in error.problems)}
        idle.update(reason)
    return Overlay(file, changes, config, idle)


class Store:
    """The file of the live changes. One that cannot be understood is set aside, and ns7 goes on without it."""

    def __init__(self, folder: str) -> None:
        self._path = Path(folder) / FILE
        self.warning = ""

    def load(self) -> Live:
        """What was kept; nothing where there is no file."""
        try:
            with self._path.open("rb") as stream:
                data = stream.read(LARGEST + 1)
            if len(data) > LARGEST:
                raise ValueError(f"larger than {LARGEST >> 20} MiB")
            return Live.load(json.loads(data))
        except FileNotFoundError:
            return Live()
        except OSError as error:
            self.warning = f"live changes are lost: {self._path} cannot be read: {error.strerror}"
        except (ValueError, RecursionError) as error:
            aside = self._path.with_suffix(".broken")
            self.warning = f"live changes are lost: {self._path} cannot be understood ({error}), it is kept as {aside}"
            try:
                self._path.replace(aside)
            except OSError as failure:
                self.warning += f", which failed: {failure.strerror}"
        return Live()

    def save(self, changes: Live) -> str:
        """Keep them, in one step and for good; why that failed, "" when it did not. Blocks for the disk."""
        try:
            write_durably(self._path, changes.encode())
        except OSError as error:
            return f"not kept over a restart: {self._path} cannot be written: {error.strerror}"
        return ""


class Steering:
    """Owns the live changes. `apply(config)` makes the workers and everybody else obey a configuration."""

    def __init__(self, file: Config, path: str, events: Events, log: Log) -> None:
        self.lock = asyncio.Lock()
        self._path, self._node = str(Path(path).absolute()), file.node
        self._events, self._log = events, log
        self._store = Store(file.process.state_dir)
        self._now = overlay(file, self._store.load())
        self._view: TableView
        self._apply: Callable[[Config], Awaitable[Any]]
        for key, reason in self._now.idle.items():
            change = self._now.live.changes[key]
            log(f"{WARNING}a live change does not count: {change.told()} of {key[0]}/{key[1]}: {reason}")

    def attach(self, view: TableView, apply: Callable[[Config], Awaitable[Any]]) -> None:
        """Where the changes go. The table exists only after the configuration, which this object makes."""
        self._view, self._apply = view, apply
        if self._store.warning:
            self._events.tell("config", "live changes", "", "reset", self._store.warning)

    @property
    def config(self) -> Config:
        """The file with the live changes over it."""
        return self._now.config

    def verbs(self) -> dict[str, Callable[[Mapping[str, Any], str], Awaitable[Any]]]:
        """What the control socket answers; each handler gets the request and who asks."""
        return {"server.add": self.add, "server.set": self.set, "server.remove": self.remove,
                "server.saved": self.saved}

    def shown(self) -> list[dict[str, Any]]:
        """The live changes that count here, or would, for the status."""
        return [{**change._asdict(), "idle": self._now.idle.get(change.key, "")}
                for change in self._now.live.active()]

    # Reload

    def reloaded(self, file: Config) -> Overlay:
        """A new file with the present changes over it; nothing has changed yet."""
        return overlay(file, self._now.live)

    async def settle(self, made: Overlay) -> list[str]:
        """That overlay has been applied; a line for each new setting of the file that a live change overrules."""
        held = [f"{change.service}/{change.server}: {change.told()} holds, a live change of {change.user}"
                for change in made.live.active() if change.key not in made.idle and (
                    live.value_in(made.file.document, change.key)
                    != live.value_in(self._now.file.document, change.key))]
        settled = made.live.settled != self._now.live.settled
        self._now = made
        if settled:
            await self._keep()
        return held

    async def _keep(self) -> str:
        warning = await asyncio.to_thread(self._store.save, self._now.live)
        if warning:
            self._log(f"{WARNING}{warning}")
        return warning

    # Verbs

    async def add(self, request: Mapping[str, Any], user: str) -> dict[str, Any]:
        """{"server": "[SERVICE/]NAME", "address": …, and any other setting of a server}."""
        table = {key: request[key] for key in SETTINGS if request.get(key) is not None}
        service, _, name = str(request.get("server", "")).rpartition("/")
        service = self._service(service)
        present = {server.name: server for each in self.config.services if each.name == service
                   for server in each.servers}
        if name.lower() in present:
            raise ControlError(f"{service}/{name.lower()} is there already, at {present[name.lower()].address}")
        if not isinstance(table.get("address"), str):
            raise ControlError("address is missing")
        key = service, name.lower(), "server"
        own = live.value_in(self._now.file.document, key)
        if own is not None and all(own.get(setting) == value for setting, value in table.items()) and not any(
                change.saved for change in self._now.live.of(*key[:2])):
            return await self._change(user, *key[:2], [], [key])        # the file's own, which had been removed
        return await self._change(user, *key[:2], [(*key, {"name": name, **table})])

    async def set(self, request: Mapping[str, Any], user: str) -> dict[str, Any]:
        """{"server": …, "weight": N, "state": auto|up|down|drained, "reset": true: lift all that was changed}."""
        key = self._server(str(request.get("server", "")), removed=bool(request.get("reset")))
        lifted: list[Key] = []
        if request.get("reset"):
            known = self._now.live.of(*key)
            lifted = [change.key for change in known if change.what != "server" or change.value is None]
            if not lifted:
                raise ControlError(f"{key[0]}/{key[1]} has no live change to lift"
                                   + (": it was added live, remove it" if known else ""))
        made = [(*key, what, request[what]) for what in ("weight", "state") if request.get(what) is not None]
        back = [one[:3] for one in made if self._is_back(one[:3], one[3])]
        if not made and not lifted:
            raise ControlError("nothing to set: weight, state or reset")
        return await self._change(user, *key, [one for one in made if one[:3] not in back], [*lifted, *back],
                                  force=bool(request.get("force")))

    def _is_back(self, key: Key, value: Any) -> bool:
        """Whether the file says the same: then a change is lifted, not made. One that was written into the file
        since it was read is not undone so."""
        known = self._now.live.changes.get(key)
        return known is not None and not known.lifted and not known.saved and (
            type(value) is type(known.value) and value == live.value_in(self._now.file.document, key))

    async def remove(self, request: Mapping[str, Any], user: str) -> dict[str, Any]:
        """{"server": …}: it takes nothing new; what it has in flight goes on."""
        key = self._server(str(request.get("server", "")))
        known = self._now.live.of(*key)
        in_file = live.value_in(self._now.file.document, (*key, "server")) is not None or any(
            change.saved and change.what == "server" for change in known)
        made = [(*key, "server", None)] if in_file else []
        return await self._change(user, *key, made, [change.key for change in known],
                                  force=bool(request.get("force")))

    async def saved(self, request: Mapping[str, Any], user: str) -> dict[str, Any]:
        """{"server": …}: its live changes were written into the file, which counts from the next reload on."""
        service, _, name = str(request.get("server", "")).rpartition("/")
        async with self.lock:
            known = [change.key for change in self._now.live.of(service, name)]
            self._now = self._now._replace(live=self._now.live.save(known, self._now.live.time(time.time())))
            warning = await self._keep()
        if known:
            self._events.audit(f"server.saved {service}/{name}", "live", f"in {self._path}", user)
        return {"saved": len(known), "warning": warning}

    # For components

    def export(self) -> dict[str, Any]:
        """The live changes as one value; other directors have the same when its `digest` is the same."""
        return self._now.live.export()

    async def adopt(self, value: Any) -> dict[str, Any]:
        """Take over what is newer in another director's value; ours afterwards. ControlError when it is none."""
        try:
            theirs = Live.load(value)
        except ValueError as error:
            raise ControlError(f"not adopted: {error}") from error
        async with self.lock:
            merged = self._now.live.merge(theirs)
            if merged.changes != self._now.live.changes:
                newer = [change for key, change in merged.changes.items()
                         if change != self._now.live.changes.get(key)]
                users = {(change.service, change.server): f"{change.user} on {change.node}" for change in newer}
                await self._obey(merged, users)
        return self.export()

    # Names

    def _service(self, name: str) -> str:
        services = [service.name for service in self.config.services]
        if not name and len(services) == 1:
            return services[0]
        if not name:
            raise ControlError(f"which service? SERVICE/SERVER, services are {', '.join(services)}")
        if name.lower() in services:
            return name.lower()
        raise ControlError(f"there is no service {_shown(name)}{_meant(name, services)}")

    def _server(self, text: str, removed: bool = False) -> tuple[str, str]:
        """Service and name of a server that there is; with `removed` also of one that was removed live."""
        service, slash, name = text.rpartition("/")
        name = name.lower()
        pairs = {(each.name, server.name) for each in self.config.services for server in each.servers}
        if removed:
            pairs |= {(change.service, change.server) for change in self._now.live.active()}
        if slash:
            service = self._service(service)
            pairs = {pair for pair in pairs if pair[0] == service}
        found = sorted(pair for pair in pairs if pair[1] == name)
        if len(found) == 1:
            return found[0]
        if found:
            raise ControlError(f"which {name}? {', '.join('/'.join(pair) for pair in found)}")
        where = f" in {service}" if slash else ""
        raise ControlError(f"there is no server {_shown(name)}{where}{_meant(name, sorted({one for _, one in pairs}))}")

    # One change

    async def _change(self, user: str, service: str, server: str, made: list[tuple[str, str, str, Any]],
                      lifted: list[Key] | None = None, force: bool = False) -> dict[str, Any]:
        async with self.lock:
            before = self._now.live.of(service, server)
            now = self._now.live.time(time.time())
            keys = {one[:3] for one in made}
            changes = self._now.live.lift([key for key in lifted or [] if key not in keys], user, now, self._node)
            try:
                fresh = Live.load({"format": live.FORMAT, "changes": [
                    Change(*one, user, now, self._node) for one in made]})
            except ValueError as error:
                raise ControlError(str(error)) from error
            changes = changes.merge(fresh)
            if sum(not change.lifted for change in changes.changes.values()) >= live.MOST:
                raise ControlError(f"{live.MOST} live changes at most: save or lift some")
            reasons = [reason for key, reason in overlay(self._now.file, changes).idle.items()
                       if key[:2] == (service, server) and key in fresh.changes]
            if reasons:
                raise ControlError(f"{service}/{server}: {'; '.join(reasons)}")
            if not force:
                self._guard(service, server, changes)
            lines, warning = await self._obey(changes, {(service, server): user})
            return {"server": f"{service}/{server}", "lines": lines, "warning": warning, "file": self._path,
                    "node": self._node, "before": [change._asdict() for change in before],
                    "live": [change._asdict() for change in self._now.live.of(service, server)]}

    def _guard(self, service: str, server: str, changes: Live) -> None:
        """Refuse what leaves a service without a server that takes queries, or that is up, unless there was none
        before; and what leaves it without its primary."""
        after = next(each for each in overlay(self._now.file, changes).config.services if each.name == service)
        own = next((one for one in after.servers if one.name == server), None)
        if own is not None and own.weight and own.state not in ("down", "drained"):
            return
        entries = {entry.name: entry for entry in self._entries(service)}
        taking = {one.name for one in after.servers if one.name in entries and entries[one.name].takes_queries}
        if server in entries and entries[server].takes_queries:
            taking.add(server)
        for found, what in ((taking, "that takes queries"),
                            ({name for name in taking if self._serves(service, entries[name])}, "that is up")):
            if found == {server}:
                raise ControlError(f"{server} is the last server of {service} {what}; --force does it nevertheless")
        if server == after.primary and server in taking:
            raise ControlError(f"{server} is the primary of {service}: UPDATE and NOTIFY would fail; "
                               "--force does it nevertheless")

    def _serves(self, service: str, entry: ServerEntry) -> bool:
        number = self._number(service)
        return number is not None and state_of(entry, self._view.verdicts_on(number, entry)) in SERVING

    def _entries(self, service: str) -> list[ServerEntry]:
        table, number = self._view.config, self._number(service)
        return [] if number is None else [entry for entry in table.servers(number) if entry.state == "present"]

    def _number(self, service: str) -> int | None:
        table = self._view.config
        return next((one for one in table.services if table.service_name(one) == service), None)

    async def _obey(self, changes: Live, users: Mapping[tuple[str, str], str]) -> tuple[list[str], str]:
        """Apply, keep and tell; users: who changed each server. The lines, and a warning if there is one."""
        before = {pair: self._seen(pair) for pair in users}
        made = overlay(self._now.file, changes)
        try:
            await self._apply(made.config)
        except StartError as error:
            raise ControlError(str(error)) from error
        self._now = made
        warning = await self._keep()
        lines = []
        for pair, user in users.items():
            was, is_now, name = before[pair], self._seen(pair), "/".join(pair)
            lines.append(f"{name}: {is_now.against(was)}")
            self._events.audit(f"server {name}", was.told(), is_now.told(), user)
            # How the server is, health tells under "server": two tellers of one subject would end each other's alerts.
            if was.order != is_now.order:
                self._events.tell("order", name, was.order, is_now.order, f"{is_now.against(was)}, by {user}")
        return lines, warning

    def _seen(self, pair: tuple[str, str]) -> Seen:
        entry = next((entry for entry in self._entries(pair[0]) if entry.name == pair[1]), None)
        if entry is None:
            return Seen("", 0, "auto")
        return Seen(entry.address, entry.weight, entry.ordered)


class Seen(NamedTuple):
    """A server as it is ordered to be. address: "" of one that is removed."""

    address: str
    weight: int
    ordered: str

    @property
    def order(self) -> str:
        """One word or two; none of them is good or bad, for an order is no trouble."""
        if not self.address:
            return "removed"
        if self.ordered in ("up", "down"):
            return f"forced {self.ordered}"
        return "drained" if self.ordered == "drained" or not self.weight else "auto"

    def told(self) -> str:
        """All of it that an operator orders, for people."""
        return f"{self.address}, weight {self.weight}, state {self.ordered}" if self.address else "removed"

    def against(self, before: Seen) -> str:
        """What has changed, for people."""
        if not self.address:
            return f"removed ({before.address})" if before.address else "no change"
        if not before.address:
            return f"added at {self.address}, weight {self.weight}"
        parts = [f"weight {before.weight} → {self.weight}"] if self.weight != before.weight else []
        parts += [f"state {before.ordered} → {self.ordered}"] if self.ordered != before.ordered else []
        return ", ".join(parts) or "no change"


def _shown(name: str) -> str:
    return json.dumps(name[:63])


def _meant(name: str, known: list[str]) -> str:
    close = get_close_matches(name.lower()[:63], known, 1)
    if close:
        return f" (did you mean {close[0]}?)"
    return f" (there is {', '.join(known[:20])}{', …' if len(known) > 20 else ''})"
