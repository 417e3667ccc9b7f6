"""`ns7 doctor` for sync: collects the facts that `findings` judges. Runs in the command, with the operator's rights."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from balancer.component import Check
from balancer.errors import Ns7Error, StartError
from sync import programs
from sync.findings import (
    Rndc,
    Role,
    Source,
    judge_clocks,
    judge_conf,
    judge_key,
    judge_published,
    judge_rndc,
    judge_role,
    judge_source,
)
from sync.named import Named
from sync.runner import find_role, load_key
from sync.store import Store, sentinel

if TYPE_CHECKING:
    from balancer.component import Site

RNDC_KEY = "/etc/bind/rndc.key"         # rndc(8), as Debian builds it
PATIENCE = 2.5                          # seconds for a program
Answer = TypeVar("Answer")


def role(site: Site) -> Role:
    config = site.config
    found, _ = find_role(config)
    needed = [("named-checkconf", "bind9-utils"), (config.rndc[0], "bind9-utils")]
    if found == "pull":
        needed.append((config.rsync[0], "rsync"))
    missing = tuple(each for each in needed if shutil.which(each[0], path=programs.PATH) is None)
    usable = os.access(config.store, os.R_OK | os.W_OK | os.X_OK)
    return Role(found, missing, config.store, not usable)


def key(site: Site) -> tuple[str, str]:
    path = site.config.tsig_key_file
    try:
        load_key(site.config)
    except StartError as error:
        return str(error), path
    unreadable = site.may_read(path)
    return f"sync.tsig_key_file {path}: {unreadable} for {site.user.name}" if unreadable else "", path


def rndc(site: Site) -> Rndc:
    config = site.config
    options = dict(zip(config.rndc, config.rndc[1:], strict=False))
    path = options.get("-k") or options.get("-c") or RNDC_KEY
    unreadable = site.may_read(path) if config.reload == "rndc" else ""
    try:
        asyncio.run(_within(Named(config).ready()))
    except Ns7Error as error:
        return Rndc(path, site.user.name, unreadable, str(error))
    return Rndc(path, site.user.name, unreadable, "")


def conf(site: Site) -> tuple[str, str, str]:
    config = site.config
    try:
        text = asyncio.run(_within(Named(config).print_conf()))
    except Ns7Error as error:
        return config.named_conf, str(error), ""
    current = Store(config.store).current_path
    if find_role(config)[0] == "pull" and current.is_symlink() and (
            f'"{sentinel(int(current.readlink().name))}"' not in text):
        return config.named_conf, "", f'include "{current}/named.conf";'
    return config.named_conf, "", ""


def source(site: Site) -> Source | None:
    config = site.config
    if find_role(config)[0] != "pull" or shutil.which(config.rsync[0], path=programs.PATH) is None:
        return None
    where, limits = config.from_where, [f"--timeout={int(PATIENCE)}"]
    if where.startswith("rsync://") or "::" in where:
        limits.append(f"--contimeout={int(PATIENCE)}")
    try:
        argv = [*config.rsync, "--list-only", "--no-motd", *limits, "--", f"{where}/"]
        done = asyncio.run(programs.run(argv, PATIENCE))
    except programs.ProgramError as error:
        return Source(where, -1, str(error))
    return Source(where, done.code, "; ".join(done.lines(3)) or f"rsync ended with code {done.code}")


def clocks(site: Site) -> tuple[tuple[str, float], ...]:
    """Of the name servers at the other end: TSIG tells the time without a key."""
    config = site.config
    others = {"publish": [each.host for each in config.pullers], "pull": [config.publisher]}
    hosts = others.get(find_role(config)[0], [])
    with ThreadPoolExecutor(16) as pool:
        ahead = pool.map(lambda host: site.clock(f"[{host}]:53" if ":" in host else f"{host}:53"), hosts)
        return tuple((host, each) for host, each in zip(hosts, ahead, strict=True) if each is not None)


def published(site: Site) -> bool:
    return find_role(site.config)[0] == "publish" and not Path(site.config.store, "manifest").exists()


async def _within(work: Awaitable[Answer]) -> Answer:
    try:
        async with asyncio.timeout(PATIENCE):
            return await work
    except TimeoutError:
        raise programs.ProgramError(f"no answer within {PATIENCE:g} s") from None


CHECKS = (
    Check("role", role, judge_role, "sync"),
    Check("key", key, judge_key, "sync"),
    Check("rndc", rndc, judge_rndc, "sync"),
    Check("conf", conf, judge_conf, "sync", 4.0),
    Check("source", source, judge_source, "sync", 3.5),
    Check("clock", clocks, judge_clocks, "sync"),
    Check("published", published, judge_published, "sync"),
)
