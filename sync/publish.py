"""The publisher's way of a change: check, reload what changed, see it served, publish, tell the pullers.

What is checked and published is one and the same copy of each file, read once, so an edit in the meantime is not half
in it; it is the next refresh's. Nothing is published when anything is wrong, unless forced.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import dns.exception
import dns.query
import dns.tsig

from balancer.component import write_durably
from balancer.errors import Ns7Error
from balancer.namedconf import ConfError
from sync import notify
from sync.manifest import CONF, EMPTY, File, Manifest, ManifestError, Zone, decode, encode, parse, sha256
from sync.named import Named, NamedError, told
from sync.namedconf import TREE, Layout, count_records, layout
from sync.namedconf import Zone as Described
from sync.plan import Changes, Key, Lag, changes, doubts, names, silent
from sync.programs import ProgramError
from sync.store import Busy, Store

if TYPE_CHECKING:
    from balancer.config import Endpoint
    from sync.config import Sync

MOST_TOLD = 100             # errors, warnings, zones in one answer
NOTIFY_TRIES = (0.3, 0.7, 1.5)          # seconds that each NOTIFY waits for its answer
ASK_TIMEOUT = 1.0
_INCLUDE = re.compile(rb"^\s*\$INCLUDE\s", re.MULTILINE | re.IGNORECASE)


class Refusal(Ns7Error):
    """Nothing was published; `errors` says why, one line each."""

    def __init__(self, errors: list[str]) -> None:
        self.errors = errors
        super().__init__(errors[0] if errors else "")


class Draft(NamedTuple):
    """The zones as they are now, staged: files and zones as a manifest has them; fresh: those that changed."""

    files: dict[str, File]
    zones: dict[Key, Zone]
    fresh: set[Key]
    errors: dict[Key, str]


class Publisher:
    """Refreshes, one after the other."""

    def __init__(self, config: Sync, secret: bytes, store: Store) -> None:
        self.config, self._secret, self._store = config, secret, store
        self._lock = asyncio.Lock()
        self._next: dict[tuple[bool, bool], asyncio.Task[dict[str, Any]]] = {}
        # Of thousands of zones these take long to read, and as a rule they have not changed since.
        self._parsed: tuple[bytes, Manifest] = b"", EMPTY
        self._layout: tuple[str, Layout] | None = None
        self._conf: tuple[Layout, frozenset[Key], bytes] | None = None
        self._pruning: asyncio.Task[None] | None = None

    def published(self) -> Manifest:
        """The generation that pullers may copy; an empty one when there is none."""
        data = self._store.published() or b""
        if data != self._parsed[0]:
            try:
                self._parsed = data, parse(data)
            except ManifestError:           # nothing yet, or damaged: then everything is published anew
                return EMPTY
        return self._parsed[1]

    def _described(self, text: str) -> Layout:
        if self._layout is None or self._layout[0] != text:
            self._layout = text, layout(text, self.config.exclude, self.config.publisher)
        return self._layout[1]

    def _conf_of(self, found: Layout, zones: Iterable[Key]) -> bytes:
        chosen = frozenset(zones)
        if self._conf is None or self._conf[0] is not found or self._conf[1] != chosen:
            self._conf = found, chosen, found.conf(chosen).encode()
        return self._conf[2]

    def _is_signed(self) -> bool:
        """Whether pullers can read what is published: not after a change of the key."""
        try:
            decode(self._store.published() or b"", self._secret)
        except ManifestError:
            return False
        return True

    async def refresh(self, full: bool, force: bool) -> dict[str, Any]:
        """Publish what has changed. Calls that come while one runs share the next: it holds all of their edits."""
        flags = full, force
        if flags not in self._next:
            self._next[flags] = asyncio.create_task(self._in_turn(flags))
        return await asyncio.shield(self._next[flags])

    async def _in_turn(self, flags: tuple[bool, bool]) -> dict[str, Any]:
        async with self._lock:
            # Who comes from now on may have edited what is read already.
            del self._next[flags]
            started = time.monotonic()
            try:
                with self._store.locked():
                    result = await self._refresh(*flags)
            except (NamedError, ProgramError, ConfError, ManifestError, Busy) as error:
                result = {"ok": False, "errors": str(error).splitlines()}
            except Refusal as error:
                result = {"ok": False, "errors": error.errors}
            except OSError as error:
                result = {"ok": False, "errors": [f"{error.filename or self._store.root}: {error.strerror}"]}
            finally:
                self._store.discard()
            return {"seconds": time.monotonic() - started, "warnings": [], **result}

    async def _prune(self, generation: int) -> None:
        async with self._lock:
            with contextlib.suppress(OSError, Busy), self._store.locked():
                await asyncio.to_thread(self._store.prune, self.config.keep, {generation})

    async def rest(self) -> None:
        """Until no refresh runs."""
        async with self._lock:
            pass
        if self._pruning is not None:
            await self._pruning

    async def preview(self) -> dict[str, Any]:
        """What a refresh would publish."""
        async with self._lock:
            with self._store.locked():
                try:
                    old = self.published()
                    _, new, errors, _ = await self._draft(old, False, 0)
                    return {**listed(changes(old, new), old, new), "from": old.generation, "to": "what is in the files",
                            "errors": errors + doubts(old, new, self.config.shrink_max)}
                finally:
                    self._store.discard()

    async def _refresh(self, full: bool, force: bool) -> dict[str, Any]:
        old = self.published()
        known = self._store.generations()
        generation = max(old.generation + 1, known[-1] + 1, int(time.time() * 1000))
        found, new, errors, config = await self._draft(old, full, generation if force else 0)
        difference = changes(old, new)
        suspicious = doubts(old, new, self.config.shrink_max)
        warnings = [f"the serial is still the same, secondaries will not notice: {names(keys)}"
                    for keys in [silent(old, new)] if keys]
        if (errors or suspicious) and not force:
            raise Refusal([*errors, *(f"{each} (if that is meant: --force)" for each in suspicious)])
        warnings += errors + suspicious
        new = new._replace(generation=generation, time=time.time(), config=config)
        result = {"left": [each._asdict() for each in found.left[:MOST_TOLD]], "zones": len(new.zones)}
        if not difference and old.config == config and self._is_signed():
            if full:
                await self._see_served(found, new, list(new.zones), force, warnings)
            return {**result, "ok": True, "generation": old.generation, "changes": "nothing changed",
                    "warnings": warnings[:MOST_TOLD]}
        await self._load(found, old, new, difference, full, force, warnings)
        data = encode(new, self._secret)
        await asyncio.to_thread(self._adopt, generation, data)
        self._parsed = data, new
        self._pruning = asyncio.create_task(self._prune(generation))        # nobody waits for that
        warnings += self._mark(found.directory, generation, data)
        return {**result, "ok": True, "generation": generation, "changes": difference.words(),
                "warnings": warnings[:MOST_TOLD]}

    # What there is

    async def _draft(self, old: Manifest, full: bool, forced: int) -> tuple[Layout, Manifest, list[str], str]:
        """The zones as they are now, staged and checked: (configuration, manifest, errors, what named must have read).

        A zone with an error is in it as it was published last.
        """
        named = Named(self.config)
        text = await named.print_conf()
        found = self._described(text)
        self._store.begin()
        draft = Draft({}, {}, set(), {})
        for zone in await asyncio.to_thread(self._read, found.zones, draft, old):
            # What it includes is not where a puller would look for it.
            try:
                data = await named.flatten(zone.name, zone.file, found.directory)
                self._take(zone, data, 0o644, draft, old)
            except NamedError as error:
                draft.errors[zone.view, zone.name] = f"{zone.file}: {error}"
        await self._check(named, found, draft, set(draft.zones) if full else draft.fresh)
        errors = [f"{names([key])}: {why}" for key, why in sorted(draft.errors.items())]
        await asyncio.to_thread(self._fall_back, draft, old)
        draft.files[CONF] = self._store.put(CONF, self._conf_of(found, draft.zones), 0o644)
        new = Manifest(0, 0.0, forced or old.forced, "", draft.files, draft.zones)
        # Where `directory` leads elsewhere, named must resolve it anew, though its configuration says the same.
        where = os.path.realpath(found.directory)
        return found, new, errors, sha256((text if where == found.directory else f"{text}\n{where}").encode())

    def _read(self, zones: tuple[Described, ...], draft: Draft, old: Manifest) -> list[Described]:
        """Take over the zones' files; returns those that include other files, which are not taken yet."""
        including = []
        for zone in zones:
            try:
                with open(zone.file, "rb") as stream:
                    mode, data = os.fstat(stream.fileno()).st_mode & 0o777, stream.read()
            except OSError as error:
                draft.errors[zone.view, zone.name] = f"{zone.file}: {error.strerror}"
                continue
            if not data:
                draft.errors[zone.view, zone.name] = f"{zone.file} is empty"
            elif zone.text and b"$include" in data.lower() and _INCLUDE.search(data):
                including.append(zone)
            else:
                self._take(zone, data, mode, draft, old)
        return including

    def _take(self, zone: Described, data: bytes, mode: int, draft: Draft, old: Manifest) -> None:
        key, before = (zone.view, zone.name), old.zones.get((zone.view, zone.name))
        if before is not None and before.path == zone.path and old.files[zone.path].sha256 == sha256(data) and \
                self._store.keep(old, zone.path, mode):
            draft.files[zone.path], draft.zones[key] = old.files[zone.path]._replace(mode=mode), before
            return
        draft.files[zone.path] = self._store.put(zone.path, data, mode)
        draft.zones[key] = Zone(zone.path, 0, count_records(data.decode("latin-1")) if zone.text else -1)
        draft.fresh.add(key)

    async def _check(self, named: Named, found: Layout, draft: Draft, keys: set[Key]) -> None:
        """Load these zones for trial, from the copies that are to be published; their serials go into the draft."""
        for view in sorted({view for view, _ in keys}):
            chosen = [key for key in keys if key[0] == view]
            conf = self._store.staging / "check.conf"
            conf.write_text(found.conf(chosen).replace(TREE, str(self._store.staging / "tree")))
            checked = await named.check_zones(conf)
            conf.unlink()
            for key in chosen:
                serial = checked.serials.get(key[1])
                if serial is None:
                    said = "; ".join(checked.failed.get(key[1], ["the checker says nothing of it"]))
                    draft.errors[key] = said.replace(str(self._store.staging / "tree") + "/", "")
                else:
                    draft.zones[key] = draft.zones[key]._replace(serial=serial)

    def _fall_back(self, draft: Draft, old: Manifest) -> None:
        """What is wrong stays as it was, or stays away."""
        for key in draft.errors:
            wrong = draft.zones.pop(key, None)
            if wrong is not None:
                del draft.files[wrong.path]
                (self._store.staging / "tree" / wrong.path).unlink()
            before = old.zones.get(key)
            if before is not None and self._store.keep(old, before.path, old.files[before.path].mode):
                draft.files[before.path], draft.zones[key] = old.files[before.path], before

    # What is done

    async def _load(self, found: Layout, old: Manifest, new: Manifest, difference: Changes, full: bool, force: bool,
                    warnings: list[str]) -> None:
        named = Named(self.config)
        try:
            passed = await named.load(difference.load, old.config != new.config, many=old.generation == 0)
            if passed:
                _touch(found, passed)
                await named.load(passed, conf=False)
        except (NamedError, ProgramError) as error:
            if not force:
                raise
            warnings.append(str(error))
            return
        await self._see_served(found, new, list(new.zones) if full else list(difference.load), force, warnings)

    async def _see_served(self, found: Layout, new: Manifest, keys: list[Key], force: bool,
                          warnings: list[str]) -> None:
        serials = {key: new.zones[key].serial for key in keys}
        wrong = await Named(self.config).wait_for(serials, newer=True)
        if wrong:
            line = told(wrong, serials)
            files = {(zone.view, zone.name): zone.file for zone in found.zones}
            fix = f"see named's log; a file that seems older than what is loaded: touch {files[next(iter(wrong))]}"
            if not force:
                raise Refusal([line, fix])
            warnings.append(line)

    def _adopt(self, generation: int, data: bytes) -> None:
        self._store.adopt(generation, data)
        self._store.publish(data)

    def _mark(self, directory: str, generation: int, manifest: bytes) -> list[str]:
        """The marker for pullers of the old kind; what went wrong with it."""
        if not self.config.marker:
            return []
        path = Path(directory, self.config.marker)
        try:
            write_durably(path, f"{generation} {sha256(manifest)}\n".encode())
        except OSError as error:
            return [f'the marker {path} cannot be written: {error.strerror} (nobody needs it: sync.marker = "")']
        return []


def listed(difference: Changes, old: Manifest, new: Manifest) -> dict[str, Any]:
    """The zones that differ, with their serials, as plain data."""
    return {"changes": difference.words(), "zones": [
        {"what": what, "view": key[0], "zone": key[1],
         "before": old.zones[key].serial if key in old.zones else None,
         "after": new.zones[key].serial if key in new.zones else None}
        for what, keys in (("added", difference.added), ("changed", difference.changed),
                           ("removed", difference.removed)) for key in keys[:MOST_TOLD]]}


def _touch(found: Layout, keys: list[Key]) -> None:
    files = {(zone.view, zone.name): zone.file for zone in found.zones}
    for key in keys:
        with contextlib.suppress(OSError):      # not ours: what named serves will tell whether it matters
            os.utime(files[key])


class Pullers:
    """What the publisher knows of its pullers."""

    def __init__(self, key: dns.tsig.Key, addresses: tuple[Endpoint, ...]) -> None:
        self._key = key
        self._known = {each: _unknown("not asked yet") for each in addresses}
        self.lags = {each: Lag() for each in addresses}

    def status(self, now: float) -> list[dict[str, Any]]:
        """Each puller as it was found last."""
        return [{"puller": str(address), **known, "behind": self.lags[address].seconds(now)}
                for address, known in self._known.items()]

    async def notify(self, generation: int, behind: bool = False) -> dict[str, str]:
        """Tell all of them, or those that are behind and not for a reason; by address why one did not hear it."""
        addresses = [each for each, known in self._known.items()
                     if not behind or (self.lags[each].since is not None and known["state"] != "failed")]
        outcomes = await asyncio.gather(*(asyncio.to_thread(self._notify, each, generation) for each in addresses))
        return {str(address): outcome for address, outcome in zip(addresses, outcomes, strict=True)}

    async def ask(self, generation: int, clock: Callable[[], float]) -> None:
        """Ask each how it is. generation: the one that all of them should serve."""
        addresses = list(self._known)
        found = await asyncio.gather(*(asyncio.to_thread(self._ask, each) for each in addresses))
        for address, status in zip(addresses, found, strict=True):
            self._known[address] = status
            self.lags[address].heard(status["generation"] != generation, clock())

    def _notify(self, address: Endpoint, generation: int) -> str:
        error = ""
        for seconds in NOTIFY_TRIES:
            try:
                # Signed anew: what is repeated word by word is refused.
                dns.query.udp(notify.notify(generation, self._key), address.host, port=address.port, timeout=seconds)
            except (dns.exception.DNSException, OSError) as failure:
                error = _words(failure)
            else:
                return ""
        return error

    def _ask(self, address: Endpoint) -> dict[str, Any]:
        try:
            return notify.read_status(dns.query.udp(notify.query(self._key), address.host, port=address.port,
                                                    timeout=ASK_TIMEOUT))
        except ManifestError as error:
            return _unknown(str(error))
        except (dns.exception.DNSException, OSError) as error:
            return _unknown(_words(error))


def _unknown(reason: str) -> dict[str, Any]:
    return {"generation": 0, "state": "unreachable", "reason": reason, "failed": 0}


def _words(error: Exception) -> str:
    if isinstance(error, dns.exception.Timeout):
        return "no answer: does ns7 run there, with this host's key and clock, and does no firewall stop us?"
    if isinstance(error, dns.tsig.PeerError | dns.tsig.BadSignature | dns.tsig.BadTime):
        return f"its answer is not signed with our key ({error})"
    return str(getattr(error, "strerror", None) or error)
