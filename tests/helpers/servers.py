"""Real name servers on loopback: NSD and BIND over one small zone, ended by pid.

The zone has what a relay must not harm: small and large answers, a CNAME, a wildcard, an empty name.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.helpers import processes, wire
from tests.helpers.client import Client
from tests.helpers.nameconf import at, named_options, nsd_server
from tests.helpers.need import require_program
from tests.helpers.ports import free_port
from tests.helpers.waiting import wait_for

ZONE = "scenario.example"
KEY_NAME = "update-key"
KEY_SECRET = "c2NlbmFyaW8gdGVzdHMgb25seSwgbm90IGEgc2VjcmV0IQ=="
LARGE = 12  # TXT records of 250 bytes at "large": more than 1232 bytes, less than 4096

ZONE_TEXT = f"""$ORIGIN {ZONE}.
$TTL 300
@ SOA ns hostmaster 1 3600 900 604800 300
@ NS ns
ns A 127.0.0.1
www A 192.0.2.80
www AAAA 2001:db8::80
alias CNAME www
*.wild A 192.0.2.81
empty TXT ""
""" + "".join(f'large TXT "{number:02}{"x" * 248}"\n' for number in range(LARGE))

@contextlib.contextmanager
def nsd(folder: Path) -> Iterator[str]:
    """NSD serving ZONE; its address."""
    program = require_program("nsd", "nsd")
    port = _write_zone(folder)
    config = folder / "server.conf"
    config.write_text(nsd_server(folder, [f"127.0.0.1@{port}"])
                      + f"zone:\n  name: {ZONE}\n  zonefile: zone\n  provide-xfr: 0.0.0.0/0 NOKEY\n")
    with _running([program, "-d", "-c", str(config)], folder, port) as address:
        yield address


@contextlib.contextmanager
def named(folder: Path, prepare: Callable[[Path], None] | None = None) -> Iterator[str]:
    """BIND serving ZONE, updates allowed with KEY_NAME; its address. `prepare(folder)` may write another zone."""
    program = require_program("named", "bind9")
    port = _write_zone(folder)
    config = folder / "server.conf"
    config.write_text(
        named_options(folder, at("127.0.0.1", port),
                      "recursion no; rrset-order { order none; }; minimal-responses yes;")
        + f'controls {{ }};\nkey "{KEY_NAME}" {{ algorithm hmac-sha256; secret "{KEY_SECRET}"; }};\n'
        f'zone "{ZONE}" {{ type primary; file "zone"; allow-update {{ key "{KEY_NAME}"; }}; }};\n')
    if prepare is not None:
        prepare(folder)
    with _running([program, "-g", "-n", "1", "-c", str(config)], folder, port) as address:
        yield address


def _write_zone(folder: Path) -> int:
    """Also a port for whoever serves it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zone").write_text(ZONE_TEXT)
    return free_port()


@contextlib.contextmanager
def _running(argv: list[str], folder: Path, port: int) -> Iterator[str]:
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, env={**os.environ}
        )
    address = f"127.0.0.1:{port}"
    try:

        def answers() -> bool:
            assert process.poll() is None, f"{argv[0]} ended:\n{log.read_text(errors='replace')}"
            with Client(address) as client, contextlib.suppress(AssertionError, ConnectionRefusedError):
                return wire.rcode(client.ask(wire.query(ZONE, "SOA"), 0.5)) == wire.RCODES["NOERROR"]
            return False

        wait_for(f"{argv[0]} answers", answers, 20)
        yield address
    finally:
        members = processes.tree(process.pid)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        processes.kill(members)
        process.wait(5)
