"""Generations on disk: made aside, put in place in one step, kept for a while. Used by publisher and pullers.

    STORE/generations/N/manifest      what it is
                       /tree/…        its files: named.conf (with TREE where they lie) and zones/…
                       /named.conf    the configuration as named includes it, made from tree/named.conf
                       /host.conf     a backup: what named was started with when it began to serve this generation
    STORE/current                     → generations/N: what named reads
    STORE/manifest                    what pullers may copy (publisher), written last
    STORE/state                       what named serves, what it was being told to load, what is bad
    STORE/staging/                    a generation that is not whole yet
    STORE/lock                        held (flock) by whoever changes any of this

Whatever moment the process dies at, each of these is whole: files appear by rename, `current` is exchanged by rename,
and a generation gets its name only when it is complete and on the disk. A file of an earlier generation is linked, not
copied, and never written again; only its time may change. Blocking: call it in a thread where the loop must go on.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from balancer.component import sync_folder, write_durably
from balancer.errors import Ns7Error, StartError
from sync.manifest import CONF, MOST_BYTES, File, Manifest, sha256
from sync.namedconf import TREE

UNKNOWN = -1
_libc = ctypes.CDLL(None, use_errno=True)


class Busy(Ns7Error):
    """Another process changes this store."""


class State(NamedTuple):
    """served: the generation that named was seen to serve; loading: the one it was told to load and that was not seen
    to be served yet, 0 for none, UNKNOWN for any; bad: why a generation is not tried again."""

    served: int = 0
    loading: int = 0
    bad: dict[int, str] = {}


class Store:
    """One folder of generations."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        self.current_path = self.root / "current"
        self.staging = self.root / "staging"

    def open(self) -> None:
        """Make what is missing; StartError when this store cannot be used."""
        try:
            self.root.mkdir(mode=0o755, parents=True, exist_ok=True)
            (self.root / "generations").mkdir(mode=0o755, exist_ok=True)
            if not self.current_path.is_symlink():
                # named may include our configuration before there is anything in it.
                folder = self._folder(0)
                folder.mkdir(mode=0o755, exist_ok=True)
                (folder / CONF).write_text(head(0))
                self.switch(0)
        except OSError as error:
            raise StartError(f"cannot use sync.store {self.root}: {error.strerror}: it must be a folder that ns7 may "
                             "write and named may read") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one who changes anything here; Busy when somebody else is. The kernel frees it at any death."""
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(f"{self.root} is being changed by another process") from None
            yield
        finally:
            os.close(descriptor)

    # What is there

    def current(self) -> int:
        """The generation that named reads."""
        return int(self.current_path.readlink().name)

    def generations(self) -> list[int]:
        """All that are whole, oldest first."""
        return sorted(int(path.name) for path in (self.root / "generations").iterdir() if path.name.isdigit())

    def manifest_bytes(self, generation: int) -> bytes:
        """A generation's manifest as it was published."""
        return (self._folder(generation) / "manifest").read_bytes()

    def published(self) -> bytes | None:
        """What pullers may copy now; None when there is nothing yet."""
        with contextlib.suppress(FileNotFoundError):
            return (self.root / "manifest").read_bytes()
        return None

    def conf(self, generation: int) -> Path:
        """The configuration of a generation, as named reads it."""
        return self._folder(generation) / CONF

    def tree(self, generation: int) -> Path:
        """The files of a generation."""
        return self._folder(generation) / "tree"

    def _folder(self, generation: int) -> Path:
        return self.root / "generations" / str(generation)

    # A new generation: begin, put and keep what it has, verify, adopt

    def begin(self) -> Path:
        """An empty staging area; the folder of its tree."""
        shutil.rmtree(self.staging, ignore_errors=True)
        tree = self.staging / "tree"
        tree.mkdir(mode=0o755, parents=True)
        return tree

    def put(self, path: str, data: bytes, mode: int) -> File:
        """A new file in the staging area."""
        target = self._place(path)
        target.write_bytes(data)
        target.chmod(mode)
        return File(len(data), sha256(data), mode)

    def keep(self, old: Manifest, path: str, mode: int) -> bool:
        """The same file as in `old`; False when somebody has removed it there."""
        source, target = f"{self.tree(old.generation)}/{path}", f"{self.staging}/tree/{path}"
        try:
            os.link(source, target)
        except FileNotFoundError:           # the folder is not there yet, or the file not any more
            self._place(path)
            try:
                os.link(source, target)
            except FileNotFoundError:
                return False
        if old.files[path].mode != mode:
            Path(target).chmod(mode)
        return True

    def keep_all(self, new: Manifest, old: Manifest) -> list[str]:
        """Everything of `new` that is the same in `old`; the paths of all else."""
        return [path for path, file in new.files.items()
                if path not in old.files or old.files[path].sha256 != file.sha256
                or not self.keep(old, path, file.mode)]

    def _place(self, path: str) -> Path:
        target = self.staging / "tree" / path
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        return target

    def verify(self, new: Manifest, paths: Iterable[str]) -> list[str]:
        """What is wrong with these files of the staging area; sets their modes."""
        found = []
        for path in paths:
            problem = _verify(self.staging / "tree" / path, new.files[path])
            if problem:
                found.append(f"{path}: {problem}")
        return found

    def write_conf(self, generation: int, tree: Path) -> Path:
        """Make the staged configuration for files that lie in `tree`; returns its path."""
        text = (self.staging / "tree" / CONF).read_text()
        path = self.staging / CONF
        path.write_text(head(generation) + text.replace(TREE, str(tree)))
        path.chmod(0o644)
        return path

    def adopt(self, generation: int, manifest: bytes) -> None:
        """The staging area is whole: give it its name. It is on the disk before it has it."""
        self.write_conf(generation, self.current_path / "tree")
        (self.staging / "manifest").write_bytes(manifest)
        self.staging.chmod(0o755 | (self.root.stat().st_mode & 0o2000))
        self._sync()
        target = self._folder(generation)
        shutil.rmtree(target, ignore_errors=True)       # of a run that died before it was of any use
        self.staging.rename(target)
        sync_folder(target.parent)

    def discard(self) -> None:
        """Throw the staging area away."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def switch(self, generation: int) -> None:
        """named reads this generation from now on."""
        link = self.root / "current.new"
        link.unlink(missing_ok=True)
        link.symlink_to(f"generations/{generation}")
        link.rename(self.current_path)
        sync_folder(self.root)

    def publish(self, manifest: bytes) -> None:
        """Pullers may copy this from now on."""
        write_durably(self.root / "manifest", manifest)

    def touch(self, generation: int, paths: Iterable[str]) -> None:
        """Make these files newer than anything: named passes over what seems older than what it has loaded."""
        now = time.time_ns()
        for path in paths:
            os.utime(self.tree(generation) / path, ns=(now, now))

    def back_up(self, generation: int, file: str) -> None:
        """Keep a copy of the file that named is started with."""
        with contextlib.suppress(OSError):
            write_durably(self._folder(generation) / "host.conf", Path(file).read_bytes())

    def prune(self, keep: int, needed: set[int]) -> None:
        """Remove the oldest generations but for `keep` and those that are needed."""
        known = [generation for generation in self.generations() if generation]
        for generation in known[:-keep]:
            if generation not in needed:
                # Renamed first: half a generation must not look like one.
                doomed = self.root / "staging.old"
                shutil.rmtree(doomed, ignore_errors=True)
                self._folder(generation).rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)

    # What is known of it

    def state(self) -> State:
        """What was noted last; of a store that is new, that nothing is served."""
        try:
            raw = json.loads((self.root / "state").read_bytes())
            return State(int(raw["served"]), int(raw["loading"]),
                         {int(number): str(why) for number, why in raw["bad"].items()})
        except FileNotFoundError:
            return State()
        except (ValueError, TypeError, KeyError, AttributeError):
            # Nothing is known but what named reads: it is loaded anew as a whole, and then it is known.
            return State(self.current(), UNKNOWN, {})

    def note(self, state: State) -> None:
        """Remember this; bad generations are forgotten with the oldest one that is kept."""
        least = min([state.served, *(each for each in self.generations() if each)])
        bad = {number: why for number, why in state.bad.items() if number >= least}
        write_durably(self.root / "state", json.dumps({**state._asdict(), "bad": bad}).encode())

    def _sync(self) -> None:
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if _libc.syncfs(descriptor):
                raise OSError(ctypes.get_errno(), "the disk does not take it")
        finally:
            os.close(descriptor)


def head(generation: int) -> str:
    """How a configuration begins. The list tells, in `named-checkconf -p`, which generation named reads."""
    return (f"// Made by ns7, do not edit: generation {generation}.\n"
            f'acl "{sentinel(generation)}" {{ none; }};\n')


def sentinel(generation: int) -> str:
    """The name of the access list that marks a generation."""
    return f"ns7-generation-{generation}"


def _verify(path: Path, file: File) -> str:
    """What is wrong with one file, "" when nothing is; sets its mode."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        return error.strerror or "cannot be read"
    with open(descriptor, "rb") as stream:
        size = os.fstat(descriptor).st_size
        if size != file.size:
            return f"{size} bytes, expected {file.size}"
        if sha256(stream.read(MOST_BYTES)) != file.sha256:
            return "its content is not what the manifest says"
        os.fchmod(descriptor, file.mode)
    return ""

