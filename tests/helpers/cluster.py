"""The hosts of the design in namespaces: two directors, real BIND on the servers, a client, a switch, no way out.

    with Cluster(folder) as cluster:
        cluster.serve("ns7c1"); cluster.serve("ns7c2")
        one, other = cluster.director("ns7c0"), cluster.director("ns7c1")

ns7c0, ns7c1, ns7c2 have 192.0.2.87 to .89, the virtual address is .90 (and 2001:db8::90); the client is .1. A cluster
of IPv6 alone has no IPv4 address anywhere. Both directors have the same file; [nodes] tells them apart. keepalived can
stand in for one of them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.oneshot import Plan, Result, Schedule, run
from tests.helpers import processes, wire
from tests.helpers.client import Client
from tests.helpers.config import Settings
from tests.helpers.daemon import Balancer
from tests.helpers.nameconf import at, named_options
from tests.helpers.need import require_program
from tests.helpers.netns import require_netns
from tests.helpers.network import DEVICE, Network
from tests.helpers.servers import ZONE, ZONE_TEXT
from tests.helpers.waiting import wait_for

HOSTS = {"client": 1, "ns7c0": 87, "ns7c1": 88, "ns7c2": 89}
DIRECTORS = {"ns7c0": 200, "ns7c1": 100}
VIP, VIP6, VRID = "192.0.2.90", "2001:db8::90", 7
KEY = "for these tests only, and no secret at all"

KEEPALIVED_CONF = """global_defs {{
  router_id test
}}
vrrp_instance VI {{
  state BACKUP
  interface {device}
  virtual_router_id {vrid}
  priority {priority}
  version 3
  advert_int {interval}
  {peers}
  virtual_ipaddress {{
    {vip}/32 dev {device}
  }}
}}
"""


@dataclass(frozen=True)
class ClusterSettings(Settings):
    """One file for both directors; `folders` says where each one keeps its own."""

    folders: tuple[tuple[str, str], ...] = ()
    priorities: tuple[tuple[str, int], ...] = ()

    def text(self, control: Path) -> str:
        nodes = [f'[nodes.{name}.admin]\nsocket = "{folder}/ns7.sock"\n[nodes.{name}.process]\n'
                 f'state_dir = "{folder}/state"' for name, folder in self.folders]
        nodes += [f"[nodes.{name}.failover]\npriority = {priority}" for name, priority in self.priorities]
        return super().text(Path("/nowhere/ns7.sock")) + "\n".join(nodes) + "\n"


class Cluster:
    """Namespaces, name servers, directors: all ended with it.

    vips: the virtual addresses, the first one is asked; more: further lines of [failover], and sections.
    """

    def __init__(self, folder: Path, interval: str = "300ms", *, vips: Sequence[str] = (VIP,), peers: bool = False,
                 more: str = "", directors: Mapping[str, int] = DIRECTORS) -> None:
        require_netns()
        self.folder, self.interval, self.vips, self.peers = folder, interval, tuple(vips), peers
        self.directors = dict(directors)
        self._stack = contextlib.ExitStack()
        self.network = self._stack.enter_context(Network(HOSTS))
        key = folder / "key"
        key.write_text(KEY)
        key.chmod(0o600)
        if VIP not in vips:
            for name in HOSTS:
                self.network[name].ip("-4", "address", "flush", "dev", DEVICE)
        listed = [self.own(name) for name in DIRECTORS] if peers else []
        self.section = "\n".join([
            "[failover]", f'interface = "{DEVICE}"', f"virtual_router_id = {VRID}", f'interval = "{interval}"',
            f"addresses = {list(vips)}", f"peers = {listed}", f'key_file = "{key}"', more]).replace("'", '"') + "\n"

    @property
    def vip(self) -> str:
        """The virtual address that is asked."""
        return self.vips[0]

    def own(self, name: str) -> str:
        """A host's own address."""
        host = self.network[name]
        return host.address4 if VIP in self.vips else host.address6

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    # Who runs

    def serve(self, name: str, listen: str | None = None, user: str = "") -> subprocess.Popen[bytes]:
        """BIND on this host: at its own address, or as `listen` says (words of named.conf).

        As another user it shares no port with ns7: SO_REUSEPORT wants the same one.
        """
        program = require_program("named", "bind9")
        host, folder = self.network[name], Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        if user:
            shutil.chown(folder, user)
        (folder / "zone").write_text(ZONE_TEXT)
        if listen is None:
            listen = at(self.own(name))
        config = folder / "named.conf"
        config.write_text(named_options(folder, listen)
                          + f'controls {{ }};\nzone "{ZONE}" {{ type primary; file "zone"; }};\n')
        with (folder / "log").open("wb") as log:
            words = [program, "-g", "-n", "1", "-c", str(config), *(["-u", user] if user else [])]
            process = host.popen(*words, stdout=log, stderr=log)
        wait_for(f"named on {name}", lambda: self.answers(self.own(name), "client"), 20)
        return process

    def pair(self, **settings: Any) -> tuple[Balancer, Balancer]:
        """Both directors, ready."""
        one, other = (self.director(name, wait=False, **settings) for name in DIRECTORS)
        for balancer in (one, other):
            balancer.wait_ready()
            self.wait_failover(balancer)
        return one, other

    def wait_failover(self, balancer: Balancer) -> None:
        """Until its failover process is at work."""
        wait_for("failover", lambda: balancer.control.exists() and self.state(balancer), 20)

    def director(self, name: str, *, env: Mapping[str, str] | None = None, wait: bool = True, failover: bool = True,
                 **settings: Any) -> Balancer:
        """ns7 on this host, ready; ended and examined by the caller's `stop`, else killed with the cluster.

        Without `failover` somebody else moves the address.
        """
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        listen = [at_port(address) for address in self.vips]
        servers = [at_port(self.own(server)) for server in ("ns7c1", "ns7c2")]
        settings = {"more": self.section if failover else "", **settings}
        balancer = Balancer(
            folder, servers, listen, wait=wait, prefix=self.network[name].prefix, env={"NS7_NODE": name, **(env or {})},
            kind=ClusterSettings, folders=tuple((one, str(self.folder / one)) for one in DIRECTORS),
            priorities=tuple(self.directors.items()) if failover else (), **settings)
        self._stack.callback(lambda: None if balancer.ended else balancer.kill())
        if wait and failover:
            self.wait_failover(balancer)
        return balancer

    def keepalived(self, name: str, priority: int) -> subprocess.Popen[bytes]:
        """keepalived in a director's place; its log is in the cluster's folder."""
        program = require_program("keepalived", "keepalived")
        folder = self.folder / f"keepalived-{name}"
        folder.mkdir(exist_ok=True)
        others = "".join(f"    {self.network[one].address4}\n" for one in DIRECTORS if one != name)
        text = f"unicast_src_ip {self.network[name].address4}\n  unicast_peer {{\n{others}  }}" if self.peers else ""
        config = folder / "keepalived.conf"
        config.write_text(KEEPALIVED_CONF.format(
            device=DEVICE, vrid=VRID, priority=priority, interval=float(self.interval.removesuffix("ms")) / 1000,
            peers=text, vip=VIP))
        with (folder / "log").open("ab") as log:
            return self.network[name].popen(
                program, "--dont-fork", "--log-console", "--log-detail", "--vrrp", "--use-file", str(config),
                "--pid", str(folder / "pid"), "--vrrp_pid", str(folder / "vrrp.pid"), stdout=log, stderr=log)

    def keepalived_log(self, name: str) -> str:
        return (self.folder / f"keepalived-{name}" / "log").read_text(errors="replace")

    # What is seen

    @staticmethod
    def state(balancer: Balancer) -> dict[str, Any]:
        """`failover status`; {} while the process does not answer."""
        with contextlib.suppress(OSError, ValueError):
            answer = balancer.request("failover.status")
            if answer["ok"]:
                return dict(answer["result"])
        return {}

    def holders(self) -> list[str]:
        """The hosts that have the virtual address."""
        return [name for name in DIRECTORS if f" {self.vip}/" in self.network[name].run("ip", "address")]

    def wait_holder(self, name: str, seconds: float = 10) -> None:
        wait_for(f"{name} alone has the address", lambda: self.holders() == [name], seconds)

    def answers(self, address: str = "", host: str = "client") -> bool:
        """Whether one query is answered now, by the virtual address if no other is named."""
        asked = at_port(address or self.vip)
        with self.network[host].entered(), contextlib.suppress(AssertionError, OSError), Client(asked) as one:
            return wire.rcode(one.ask(wire.query(ZONE, "SOA"), 0.5)) == wire.RCODES["NOERROR"]
        return False

    def neighbour(self, host: str) -> str:
        """The MAC that a host has for the virtual address."""
        words = self.network[host].run("ip", "neigh", "show", self.vip).split()
        return words[words.index("lladdr") + 1] if "lladdr" in words else ""

    def mac(self, name: str) -> str:
        return self.network[name].run("cat", f"/sys/class/net/{DEVICE}/address").strip()

    def load(self, seconds: float, schedule: Schedule = (), qps: float = 1000, patience: float = 3.0) -> Result:
        """The one-shot client on the host "client" asking the virtual address; see benchmarks.oneshot."""
        plan = Plan((self.vip, 53), qps, seconds, [wire.query(f"n{number}.wild.{ZONE}") for number in range(500)], 16,
                    patience)
        with self.network["client"].entered():
            return run(plan, schedule)


def at_port(address: str) -> str:
    """The address with port 53."""
    return f"[{address}]:53" if ":" in address else f"{address}:53"


def signal_all(balancer: Balancer, number: signal.Signals) -> None:
    """To every process of this ns7."""
    for pid in processes.tree(balancer.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def failover_pid(balancer: Balancer) -> int:
    """The failover process at work."""
    return int(balancer.status()["processes"]["failover"]["pid"])
