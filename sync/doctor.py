"""What `ns7 doctor` says of sync on this host. Runs in the command, with the operator's rights."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from balancer.component import Finding
from balancer.errors import Ns7Error, StartError
from sync.named import Named
from sync.programs import PATH
from sync.runner import find_role, load_key
from sync.store import Store, sentinel


def doctor(config: Any) -> Iterator[Finding]:
    """What would keep zones from being published, or pulled, with the command that mends it."""
    if config is None:
        return
    try:
        load_key(config)
    except StartError as error:
        yield Finding(str(error), f"install -m 640 -g ns7 <(tsig-keygen sync) {config.tsig_key_file}")
    role, _ = find_role(config)
    if not role:
        yield Finding("neither sync.publisher nor one of sync.pullers is an address of this host",
                      "ip address show; or set sync.role")
    needed = [("named-checkconf", "bind9-utils"), (config.rndc[0], "bind9-utils")]
    if role == "pull":
        needed.append((config.rsync[0], "rsync"))
    for program, package in needed:
        if shutil.which(program, path=PATH) is None:
            yield Finding(f"{program} is not installed", f"apt-get install {package}")
            return
    if not os.access(config.store, os.R_OK | os.W_OK | os.X_OK):
        yield Finding(f"sync.store {config.store} is not there, or may not be written",
                      f"install -d -o ns7 -g bind -m 2750 {config.store}")
        return
    yield from asyncio.run(_named(config, role))


async def _named(config: Any, role: str) -> list[Finding]:
    named, found = Named(config), []
    try:
        text = await named.print_conf()
        current = Store(config.store).current_path
        if role == "pull" and current.is_symlink() and f'"{sentinel(int(current.readlink().name))}"' not in text:
            line = f'include "{current}/named.conf";'
            found.append(Finding(f"{config.named_conf} does not include the zones",
                                 f"echo '{line}' >> {config.named_conf}"))
    except (Ns7Error, OSError) as error:
        found.append(Finding(str(error), f"named-checkconf {config.named_conf}"))
    try:
        await named.ready()
    except Ns7Error as error:
        found.append(Finding(f"named does not take orders: {error}",
                             "usermod -aG bind ns7; systemctl restart ns7; rndc status"))
    if role == "publish" and not Path(config.store, "manifest").exists():
        found.append(Finding("nothing was published yet", "ns7 refresh --full"))
    return found
