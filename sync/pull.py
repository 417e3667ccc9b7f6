"""The puller's way of a change: copy, verify, check, switch, have named load it, see it served; else go back.

    manifest ─ signed? newer? believable? ─ copy what differs ─ as the manifest says? loads? ─ adopt
        ─ note "loading N" ─ switch ─ named.conf right? ─ reconfig, reload ─ served? ─ note "served N"

Before the switch a failure changes nothing. After it, the generation before is put back, loaded, and seen to be served,
and N is bad: not tried again until there is a newer one, or somebody says so. A process that dies leaves "loading N",
and the next run ends what it had begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from balancer.errors import ControlError, Ns7Error
from balancer.namedconf import ConfError, Statement, body, parse, render, value, word
from sync import programs
from sync.manifest import CONF, EMPTY, MOST_BYTES, Manifest, ManifestError, decode
from sync.manifest import parse as parse_manifest
from sync.named import Named, NamedError, told
from sync.namedconf import TREE, zone_name
from sync.plan import RELOAD_EACH, changes, doubts
from sync.programs import ProgramError
from sync.publish import listed
from sync.store import Busy, State, Store, sentinel

if TYPE_CHECKING:
    from sync.config import Sync

CONNECT_TIMEOUT = 5         # seconds, of rsync to a daemon
MOST_PARSED = 3             # manifests kept in memory
TRIES = 3                   # copies of a generation that is gone before it is whole: the publisher has a newer one then
# rsync(1), "EXIT VALUES", and 255, which is ssh's.
UNREACHABLE = frozenset({5, 10, 12, 30, 35, 255})
DISK, PARTIAL, VANISHED = 11, 23, 24


class Failure(Ns7Error):
    """A pull that did not end in a new generation. label: one of plan.OUTCOMES; again: it may pass by itself."""

    def __init__(self, label: str, reason: str, again: bool = True) -> None:
        self.label, self.again = label, again
        super().__init__(reason)


class Puller:
    """Pulls, one after the other."""

    def __init__(self, config: Sync, secret: bytes, store: Store) -> None:
        self.config, self._secret, self._store = config, secret, store
        self._parsed: dict[int, tuple[bytes, Manifest]] = {}
        self._statements: tuple[str, list[Statement]] = "", []      # of the published configuration with this sha256
        self.seen = 0               # the newest generation that the publisher was found to have
        self._lock = asyncio.Lock()

    def served_manifest(self) -> Manifest:
        """The generation that named was seen to serve; an empty one when there is none."""
        return self._manifest(self._store.state().served)

    def kept(self) -> dict[str, Any]:
        """The generations that can be gone back to, and those that are not tried again."""
        return {"kept": [each for each in self._store.generations() if each],
                "bad": {str(number): why for number, why in self._store.state().bad.items()}}

    async def rest(self) -> None:
        """Until nothing is under way."""
        async with self._lock:
            pass

    async def pull(self, full: bool = False, force: bool = False) -> dict[str, Any]:
        """Take over what the publisher has. full: verify everything, loaded or not. Raises Failure."""
        async with self._lock:
            with self._guarded():
                return await self._pull(full, force)

    async def rollback(self, generation: int | None) -> dict[str, Any]:
        """Serve an earlier generation; the present one is not pulled again. Raises Failure, ControlError."""
        async with self._lock:
            with self._guarded():
                await self._settle()
                now = self._store.current()
                earlier = [each for each in self._store.generations() if 0 < each < now]
                if generation is None and not earlier:
                    raise ControlError(f"there is no generation before {now}")
                target = earlier[-1] if generation is None else generation
                if target == now or target not in self._store.generations() or target == 0:
                    kept = ", ".join(str(each) for each in self._store.generations() if each)
                    raise ControlError(f"generation {target} is not kept, or is served now ({now}); kept: {kept}")
                await Named(self.config).ready()
                await self._install(target, "rolled back by the operator")
                state = self._store.state()
                newer = {each: state.bad.get(each, "rolled back by the operator")
                         for each in self._store.generations() if each > target}
                self._store.note(state._replace(bad={
                    **{each: why for each, why in state.bad.items() if each != target}, **newer}))
                return {"generation": target, "before": now}

    async def diff(self) -> dict[str, Any]:
        """What the publisher has that is not served here."""
        async with self._lock:
            with self._guarded():
                new, old = decode(await self._fetch_manifest(), self._secret), self.served_manifest()
                found = doubts(old, new, self.config.shrink_max) if new.forced <= old.generation else []
                return {**listed(changes(old, new), old, new), "from": old.generation, "to": new.generation,
                        "errors": found}

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Holds the store; whatever goes wrong comes out as Failure, and leaves no staging area."""
        try:
            with self._store.locked():
                try:
                    yield
                finally:
                    self._store.discard()
        except Busy as error:
            raise Failure("busy", str(error)) from error
        except ManifestError as error:
            raise Failure("manifest", str(error), again=False) from error
        except ConfError as error:
            raise Failure("conf", str(error), again=False) from error
        except (NamedError, ProgramError) as error:
            raise Failure("named", str(error)) from error
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise Failure("disk", f"{error.filename or self._store.root}: {error.strerror}"
                          + (": the disk is full" if full else "")) from error

    # One pull

    async def _pull(self, full: bool, force: bool) -> dict[str, Any]:
        await self._settle()
        for attempt in range(TRIES):
            data = await self._fetch_manifest()
            new, state = self._remember(data, decode(data, self._secret)), self._store.state()
            self.seen = max(self.seen, new.generation)
            old = self._manifest(state.served)
            if new.generation == state.served and not full:
                return {"generation": new.generation, "changes": "nothing new"}
            self._judge(old, new, state, force)
            try:
                await self._copy(old, new, full)
            except Failure as failure:
                # The publisher may have pruned it meanwhile: it has a newer one then.
                if failure.label != "partial" or attempt == TRIES - 1 or await self._fetch_manifest() == data:
                    raise
            else:
                break
        await programs.together(self._check(old, new, full), Named(self.config).ready(),
                                self._see_included(self._store.current()))
        await asyncio.to_thread(self._store.adopt, new.generation, data)
        await self._install(new.generation, "", full)
        with contextlib.suppress(OSError):
            self._store.back_up(new.generation, self.config.named_conf)
            self._store.prune(self.config.keep, {new.generation, old.generation})
        return {"generation": new.generation, "changes": changes(old, new).words()}

    def _judge(self, old: Manifest, new: Manifest, state: State, force: bool) -> None:
        if force:
            return
        if new.generation in state.bad:
            raise Failure("bad", f"generation {new.generation} is not tried again (`ns7 sync now --force` does): "
                          f"{state.bad[new.generation]}", again=False)
        if new.generation < old.generation:
            raise Failure("old", f"the publisher has generation {new.generation}, which is older than "
                          f"{old.generation}, served here: was its store lost? `ns7 sync now --force` takes it",
                          again=False)
        found = doubts(old, new, self.config.shrink_max)
        if found and old.generation and new.forced <= old.generation:
            raise Failure("suspicious", f"generation {new.generation}: {'; '.join(found)} (if that is meant: "
                          "`ns7 sync now --force`)", again=False)

    async def _copy(self, old: Manifest, new: Manifest, full: bool) -> None:
        def prepare() -> list[str]:
            self._store.begin()
            return self._store.keep_all(new, old)

        wanted = await asyncio.to_thread(prepare)
        if full:
            wrong = await asyncio.to_thread(self._store.verify, new, new.files.keys() - set(wanted))
            for line in wrong:
                path = line.partition(":")[0]
                (self._store.staging / "tree" / path).unlink()
                wanted.append(path)
        if wanted:
            # Only what is known to differ is asked for, so no comparison of rsync's can be mistaken.
            await self._rsync(f"generations/{new.generation}/tree/", self._store.staging / "tree",
                              "--files-from=-", "--from0", "--no-implied-dirs",
                              stdin="\0".join(wanted).encode())
        wrong = await asyncio.to_thread(self._store.verify, new, wanted)
        if wrong:
            raise Failure("damaged", f"generation {new.generation} came over damaged: {wrong[0]}"
                          + (f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""))

    async def _fetch_manifest(self) -> bytes:
        self._store.begin()
        target = self._store.staging / "incoming"
        await self._rsync("manifest", target, f"--max-size={MOST_BYTES}")
        return target.read_bytes()

    async def _rsync(self, what: str, target: Path, *options: str, stdin: bytes = b"") -> None:
        source = self.config.from_where
        limits = [f"--timeout={max(1, int(self.config.timeout))}"]
        if source.startswith("rsync://") or "::" in source:
            # Without NODELAY on both sides each of rsync's small messages waits 40 ms for the other's delayed ACK.
            limits += [f"--contimeout={CONNECT_TIMEOUT}", "--sockopts=TCP_NODELAY"]
        done = await programs.run(
            [*self.config.rsync, "--ignore-times", "--no-motd", *limits, *options, "--", f"{source}/{what}",
             str(target)], self.config.timeout, stdin)
        if done.code:
            raise failure_of(done.code, "; ".join(done.lines(3)))

    async def _check(self, old: Manifest, new: Manifest, full: bool) -> None:
        """Load what changed for trial; Failure when anything does not load, or is not what the manifest says of it."""
        keys = list(new.zones) if full else list(changes(old, new).load)
        tree = self._store.staging / "tree"
        if keys and self._statements[0] != new.files[CONF].sha256:
            self._statements = new.files[CONF].sha256, parse((tree / CONF).read_text())
        for view in sorted({view for view, _ in keys}):
            chosen = {name for each, name in keys if each == view}
            trial = self._store.staging / "check.conf"
            trial.write_text(render(_only(self._statements[1], view, chosen)).replace(TREE, str(tree)))
            checked = await Named(self.config).check_zones(trial)
            trial.unlink()
            for name in sorted(chosen):
                expected, serial = new.zones[view, name].serial, checked.serials.get(name)
                if serial != expected:
                    said = "; ".join(checked.failed.get(name, [f"serial {serial}, the manifest says {expected}"]))
                    await self._reject(new.generation, said.replace(f"{tree}/", ""))

    async def _reject(self, generation: int, reason: str) -> None:
        """A generation whose copy is exact and that is wrong all the same."""
        state = self._store.state()
        self._store.note(state._replace(bad={**state.bad, generation: reason[:500]}))
        raise Failure("zones", f"generation {generation}: {reason}", again=False)

    # Loading

    async def _install(self, target: int, reason: str, full: bool = False) -> None:
        """Have named serve this generation, else the one before. reason: why the other one is bad, when it is."""
        state = self._store.state()
        before = state.served
        bad = {number: why for number, why in state.bad.items() if number != target}
        if reason:
            bad[before] = reason
        self._store.note(State(before, target, bad))
        self._store.switch(target)
        try:
            await self._load(target, before, full)
        except (NamedError, ProgramError, Failure) as error:
            await self._go_back(target, str(error))
        self._store.note(State(target, 0, bad))

    async def _go_back(self, target: int, reason: str) -> None:
        """`target` is not served. Raises Failure in any case."""
        state = self._store.state()
        try:
            await Named(self.config).ready()
        except (NamedError, ProgramError) as error:
            # Nobody's fault but named's: the next run loads what is current.
            raise Failure("named", f"generation {target} is in place, but named does not run: {error}") from error
        self._store.note(state._replace(bad={**state.bad, target: reason[:500]}))
        self._store.switch(state.served)
        try:
            await self._load(state.served, target)
        except (NamedError, ProgramError, Failure) as error:
            raise Failure("named", f"generation {target}: {reason}; going back to {state.served} failed, too: {error}"
                          ) from error
        self._store.note(self._store.state()._replace(loading=0))
        raise Failure("named", f"generation {target}: {reason}; went back to generation {state.served}", again=False)

    async def _settle(self) -> None:
        """End what a run that died had begun, so that a whole generation is served."""
        state = self._store.state()
        now = self._store.current()
        if not state.loading and now == state.served:
            return
        await Named(self.config).ready()
        if now in state.bad and state.served and now != state.served:
            self._store.switch(state.served)
            now = state.served
        other = state.loading if now == state.served else state.served
        try:
            await self._load(now, other)
        except (NamedError, ProgramError, Failure) as error:
            if now == state.served:
                raise
            self._store.note(state._replace(loading=now))
            await self._go_back(now, str(error))
        self._store.note(state._replace(served=now, loading=0))

    async def _load(self, target: int, other: int, full: bool = False) -> None:
        """Have named load `target`, where it has loaded, in part or as a whole, `other`; see it served."""
        new, old = self._manifest(target), self._manifest(other)
        difference = changes(old, new)
        if difference.conf:
            await self._see_included(target)
        keys = list(new.zones if full or other <= 0 else difference.load)
        serials = {key: new.zones[key].serial for key in keys}
        paths = [new.zones[key].path for key in keys]
        named = Named(self.config)
        await asyncio.to_thread(self._store.touch, target, paths)
        many = other <= 0 or len(keys) > RELOAD_EACH
        try:
            passed = await named.load(keys, difference.conf, many)
        except NamedError:
            if difference.conf or many:
                raise
            # It has not read its configuration since ours came into it.
            passed = await named.load(keys)
        if passed:
            await asyncio.to_thread(self._store.touch, target, [new.zones[key].path for key in passed])
            await named.load(passed, conf=False)
        wrong = await named.wait_for(serials)
        if wrong:
            raise Failure("named", told(wrong, serials))

    async def _see_included(self, generation: int) -> None:
        """What named is started with must be right, and include what we make."""
        try:
            text = await Named(self.config).print_conf()
        except NamedError as error:
            raise Failure("conf", str(error).replace("\n", " ")) from error
        if f'acl "{sentinel(generation)}"' not in text:
            raise Failure("conf", f"{self.config.named_conf} does not include the zones: add the line  include "
                          f'"{self._store.current_path}/{CONF}";  at its end')

    def _manifest(self, generation: int) -> Manifest:
        if generation > 0:
            # Where it is damaged or gone nothing is known to be there: all of it is copied and loaded anew.
            with contextlib.suppress(ManifestError, FileNotFoundError):
                data = self._store.manifest_bytes(generation)
                known, manifest = self._parsed.pop(generation, (b"", EMPTY))
                return self._remember(data, manifest if known == data else parse_manifest(data))
        return EMPTY

    def _remember(self, data: bytes, manifest: Manifest) -> Manifest:
        """Keep the last few, for a large one takes a while to read."""
        self._parsed[manifest.generation] = data, manifest
        if len(self._parsed) > MOST_PARSED:
            del self._parsed[next(iter(self._parsed))]
        return manifest


def failure_of(code: int, said: str) -> Failure:
    """What an exit code of rsync means."""
    if "No space left" in said:
        return Failure("disk", f"the disk is full: {said}")
    if code in (PARTIAL, VANISHED):
        return Failure("partial", f"rsync copied a part only (code {code}): {said}")
    if code in UNREACHABLE:
        return Failure("unreachable", f"the publisher cannot be reached: {said or f'rsync ended with code {code}'}")
    return Failure("disk" if code == DISK else "unreachable", f"rsync ended with code {code}: {said}")


def _only(statements: list[Statement], view: str, chosen: set[str]) -> list[Statement]:
    """A configuration with these zones of one view, and what they refer to."""
    def kept(block: list[Statement]) -> list[Statement]:
        return [each for each in block if word(each, 0) != "zone"
                or (zone_name(each) in chosen and value(body(each), "in-view") is None)]

    if not view:
        return [each for each in kept(statements) if word(each, 0) != "view"]
    return [tuple(kept(part) if isinstance(part, list) else part for part in each) if word(each, 0) == "view" else each
            for each in statements if word(each, 0) not in ("zone", "view") or word(each, 1) == view]
