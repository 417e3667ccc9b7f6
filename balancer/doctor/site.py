"""This host, as the checks of `ns7 doctor` see it (`component.Site`)."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balancer.component import Held, Server, Service, User
from balancer.config import Config
from balancer.config.values import SERVER
from balancer.doctor import clock, kernel
from balancer.errors import ControlError, Unseen
from balancer.process.rights import NUMBERS

Ask = Callable[[str], Any]
UNIT = "ns7.service"


@dataclass(frozen=True)
class LocalSite:
    """What is known before the first check. file: the whole configuration; section: what this check is about."""

    file: Config
    section: Any
    user: User
    answer: Ask

    def about(self, section: Any) -> LocalSite:
        """The same host, for checks of another section."""
        return dataclasses.replace(self, section=section)

    @property
    def config(self) -> Any:
        return self.section

    @property
    def node(self) -> str:
        return self.file.node

    @property
    def roles(self) -> tuple[str, ...]:
        return self.file.roles

    @property
    def services(self) -> tuple[Service, ...]:
        return tuple(
            Service(service.name, tuple(map(str, service.listen)), tuple(
                Server(each.name, str(each.address), each.weight, str(each.source or "")) for each in service.servers))
            for service in self.file.services)

    @property
    def floating(self) -> frozenset[str]:
        return self.file.floating

    def ask(self, verb: str) -> Any:
        return self.answer(verb)

    def may_read(self, path: str) -> str:
        return may_read(path, self.user)

    def held(self) -> tuple[Held, ...]:
        return kernel.held()

    def device(self, address: str) -> str:
        return kernel.device(address)

    def clock(self, server: str) -> float | None:
        return clock.ahead(*SERVER(server))


def may_read(path: str, user: User) -> str:
    """Why this user cannot read a file, "" when it can. Asks the kernel, so access lists count."""
    if user.uid == os.geteuid():
        try:
            with open(path, "rb"):
                return ""
        except OSError as error:
            return error.strerror or str(error)
    if os.geteuid() != 0:
        raise Unseen(f"whether {user.name} can read {path} cannot be told by {os.geteuid()}", "sudo ns7 doctor")
    groups = os.getgrouplist(user.name, user.gid)
    done = subprocess.run(["test", "-r", path], user=user.uid, group=user.gid, extra_groups=groups, timeout=2,
                          cwd="/", check=False)
    if done.returncode == 0:
        return ""
    return "Permission denied" if Path(path).exists() else "No such file or directory"


def who_runs(ask: Ask) -> User:
    """Who runs ns7 now; else the user of its unit; else who asks."""
    with contextlib.suppress(ControlError, Unseen, OSError, KeyError, TypeError, ValueError):
        pid = int(ask("status")["pid"])
        return _process(pid, True)
    return _unit() or _process(os.getpid(), False)


def _process(pid: int, runs: bool) -> User:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    uid, gid, held = int(lines["Uid"].split()[1]), int(lines["Gid"].split()[1]), int(lines["CapPrm"], 16)
    return User(_name(uid), uid, gid, frozenset(name for name, bit in NUMBERS.items() if held >> bit & 1), runs)


def _unit() -> User | None:
    systemctl = shutil.which("systemctl")
    if systemctl is None or not Path("/run/systemd/system").is_dir():
        return None
    try:
        done = subprocess.run([systemctl, "show", "-p", "LoadState,User,AmbientCapabilities", UNIT], timeout=1,
                              capture_output=True, text=True, check=False)
        said = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
        if said.get("LoadState") != "loaded":
            return None
        entry = pwd.getpwnam(said.get("User") or "root")
    except (OSError, subprocess.TimeoutExpired, KeyError):
        return None
    words = {word.upper().removeprefix("CAP_") for word in said.get("AmbientCapabilities", "").split()}
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid,
                frozenset(NUMBERS) if entry.pw_uid == 0 else frozenset(words & set(NUMBERS)), False)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
