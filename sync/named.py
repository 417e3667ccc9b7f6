"""This host's named: asks its checkers, tells it to load, and sees what it serves."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

from balancer.errors import Ns7Error
from sync import programs
from sync.plan import RELOAD_EACH, Key, is_before, names
from sync.programs import ProgramError

if TYPE_CHECKING:
    from sync.config import Sync

AT_ONCE = 4                 # programs
ASK_TIMEOUT = 1.0           # seconds for one answer of named
ASK_AGAIN = 0.02            # seconds between two looks, growing
MOST_LINES = 50             # of what a checker says
_LOADED = re.compile(r"zone (\S+)/IN: loaded serial (\d+)")
_SAID = re.compile(r"zone (\S+)/IN: ")


class NamedError(Ns7Error):
    """named, or one of its checkers, refused."""


class Checked(NamedTuple):
    """What a trial load found: serials of the zones that load, and of the others what was said, all by name."""

    serials: dict[str, int]
    failed: dict[str, list[str]]


def read_check(out: str) -> Checked:
    """What `named-checkconf -z` says on its standard output, for a configuration of one view. Pure."""
    serials: dict[str, int] = {}
    said: dict[str, list[str]] = {}
    before: list[str] = []              # an error in a file is told before the zone it is in
    for line in out.splitlines():
        zone = _SAID.match(line)
        if zone is None:
            before.append(line)
            continue
        name = zone[1].lower().rstrip(".") or "."
        loaded = _LOADED.match(line)
        if loaded:
            serials[name] = int(loaded[2])
        else:
            said.setdefault(name, []).extend([*before, line])
        before = []
    return Checked(serials, {name: lines[:MOST_LINES] for name, lines in said.items() if name not in serials})


class Named:
    """The name server as the settings describe it."""

    def __init__(self, config: Sync) -> None:
        self.config = config

    # Checks

    async def print_conf(self) -> str:
        """What named is started with, canonical; NamedError with every mistake."""
        done = await programs.run([programs.find("named-checkconf"), "-p", self.config.named_conf],
                                  self.config.timeout)
        if done.code:
            raise NamedError("\n".join([f"{self.config.named_conf} is not right:", *done.lines(MOST_LINES)]))
        return done.out

    async def check_zones(self, conf: Path) -> Checked:
        """Load every zone of a configuration of one view for trial, as named itself would load it."""
        done = await programs.run([programs.find("named-checkconf"), "-z", str(conf)], self.config.timeout)
        checked = read_check(done.out)
        if done.code and not checked.failed:
            raise NamedError("\n".join(["the zones cannot be checked:", *done.lines(MOST_LINES)]))
        return checked

    async def flatten(self, name: str, file: str, directory: str) -> bytes:
        """A zone file with all that it includes, as one text; NamedError when it cannot be read."""
        lenient = ["-i", "none", "-k", "ignore", "-n", "ignore", "-m", "ignore", "-r", "ignore"]    # checked later
        done = await programs.run([programs.find("named-compilezone"), "-q", *lenient, "-w", directory, "-o", "-", name,
                                   file], self.config.timeout)
        if done.code or len(done.out) >= programs.MOST_OUTPUT:
            raise NamedError("; ".join(done.lines(3)) or "it is too large for a zone with $INCLUDE")
        return done.out.encode()

    # Orders

    async def ready(self) -> None:
        """NamedError when named does not take orders."""
        if self.config.reload == "hup":
            self._pid()
        else:
            await self._rndc("status")

    async def load(self, zones: Iterable[Key], conf: bool = True, many: bool = False) -> list[Key]:
        """Have named read these zones; conf: its configuration before; many: that, and every zone with a newer file.

        `conf` takes named a while that grows with its zones, so it is for a configuration that has changed; or whose
        relative paths lead elsewhere now, for these named resolved when it read it last. Returns the zones that named
        passed over because their files seem older than what it has loaded.
        """
        keys = list(zones)
        if self.config.reload == "hup":
            try:
                os.kill(self._pid(), signal.SIGHUP)
            except OSError as error:
                raise NamedError(f"cannot send SIGHUP to named: {error.strerror} (with reload = \"hup\" ns7 must run "
                                 "as named's user)") from None
            return []
        if many or len(keys) > RELOAD_EACH:
            await self._rndc("reload")
            return []
        if conf:
            await self._rndc("reconfig")
        gate = asyncio.Semaphore(AT_ONCE)

        async def reload(key: Key) -> bool:
            async with gate:
                return "up-to-date" in await self._rndc("reload", *_of(key))

        passed = await asyncio.gather(*(reload(key) for key in keys))
        return [key for key, over in zip(keys, passed, strict=True) if over]

    async def _rndc(self, *words: str) -> str:
        done = await programs.run([*self.config.rndc, *words], self.config.timeout)
        if done.code:
            raise NamedError(f"rndc {' '.join(words)}: {'; '.join(done.lines(3)) or f'exit code {done.code}'}")
        return done.out

    def _pid(self) -> int:
        try:
            return int(Path(self.config.pid_file).read_text())
        except (OSError, ValueError) as error:
            raise NamedError(f"sync.pid_file {self.config.pid_file}: {error}") from None

    # What it serves

    async def wait_for(self, serials: Mapping[Key, int], newer: bool = False) -> dict[Key, int | None]:
        """Until it serves these serials (newer: or later ones); what it serves of the others after serve_timeout."""
        deadline = time.monotonic() + self.config.serve_timeout
        wrong: dict[Key, int | None] = dict.fromkeys(serials)
        pause = ASK_AGAIN
        while True:
            found = await self.serials(wrong)
            wrong = {key: serial for key, serial in found.items()
                     if not _fits(serial, serials[key], newer)}
            if not wrong or time.monotonic() > deadline:
                return wrong
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.5)

    async def serials(self, keys: Iterable[Key]) -> dict[Key, int | None]:
        """The serial of each zone as served; None where it is not. A zone in a view is asked of rndc."""
        wanted = list(keys)
        plain = [key for key in wanted if not key[0]]
        found = await asyncio.to_thread(self._ask, plain)
        for key in wanted:
            if key[0]:
                found[key] = await self._status(key)
        return found

    async def _status(self, key: Key) -> int | None:
        try:
            text = await self._rndc("zonestatus", *_of(key))
        except (NamedError, ProgramError):
            return None
        match = re.search(r"^serial: (\d+)$", text, re.MULTILINE)
        return int(match[1]) if match else None

    def _ask(self, keys: list[Key]) -> dict[Key, int | None]:
        found: dict[Key, int | None] = {}
        with socket.socket(self.config.named.family, socket.SOCK_DGRAM) as sock:
            sock.connect(tuple(self.config.named))
            sock.setblocking(False)
            for key in keys:
                found[key] = self._serial(sock, key[1])
        return found

    def _serial(self, sock: socket.socket, name: str) -> int | None:
        query = dns.message.make_query(name, dns.rdatatype.SOA, flags=0)
        host, port = self.config.named
        try:
            answer = dns.query.udp(query, host, port=port, timeout=ASK_TIMEOUT, sock=sock, ignore_errors=True)
        except (dns.exception.DNSException, OSError):
            return None
        if answer.rcode() != dns.rcode.NOERROR or not answer.flags & dns.flags.AA:
            return None
        for rrset in answer.answer:
            if rrset.rdtype == dns.rdatatype.SOA and rrset.name == query.question[0].name:
                return int(rrset[0].serial)
        return None


def told(wrong: Mapping[Key, int | None], expected: Mapping[Key, int]) -> str:
    """In one line which zones are not served as they should be."""
    (key, serial), *_ = wrong.items()
    said = "does not serve it" if serial is None else f"serves serial {serial}"
    return f"named {said}, expected {expected[key]}: {names(list(wrong))}"


def _fits(served: int | None, expected: int, newer: bool) -> bool:
    return served is not None and (served == expected or (newer and is_before(expected, served)))


def _of(key: Key) -> list[str]:
    view, name = key
    return [name, "IN", view] if view else [name]
