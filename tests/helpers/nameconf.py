"""What every name server of a test or a benchmark has in its configuration: named's options, NSD's server section.

One folder of its own, the addresses it is told, no recursion, no limit of rates, nothing outside of its folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def named_options(folder: Path, listen: str, more: str = "recursion no;") -> str:
    """The statement `options`. listen: its statements of where to listen (`at` makes them); more: further ones."""
    return f"""options {{
  directory "{folder}";
  pid-file "{folder}/named.pid";
  session-keyfile "{folder}/session.key";
  managed-keys-directory "{folder}";
  {listen}
  dnssec-validation no;
  empty-zones-enable no;
  notify no;
  {more}
}};
"""


def at(host: str, port: int = 53) -> str:
    """One address, for `listen`."""
    four, six = ("none", host) if ":" in host else (host, "none")
    return f"listen-on port {port} {{ {four}; }}; listen-on-v6 port {port} {{ {six}; }};"


def nsd_server(folder: Path, addresses: Sequence[str], name: str = "nsd", more: str = "") -> str:
    """The section `server:` and no control port. addresses: as HOST@PORT; name: of its own files in the folder; more:
    further lines of the section."""
    listen = "".join(f"  ip-address: {address}\n" for address in addresses)
    own = folder / name
    return f"""server:
{listen}  server-count: 1
  username: ""
  chroot: ""
  zonesdir: "{folder}"
  database: ""
  pidfile: "{own}.pid"
  xfrdfile: "{own}.xfrd"
  xfrdir: "{folder}"
  zonelistfile: "{own}.zonelist"
  rrl-ratelimit: 0
{more}remote-control:
  control-enable: no
"""
