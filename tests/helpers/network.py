"""A small network: hosts that are namespaces, a switch that is a bridge in its own, and no way out.

    with Network({"client": 1, "ns7": 2, "s1": 11, "s2": 12}, delayed=["s1"]) as network:
        network.delay("s1", 0.02)
        network["s1"].popen("nsd", …)
        network.cut("s2")

Host N has 192.0.2.N and 2001:db8::N on its device eth0; the link ends at the switch in a port named like the
host. A delayed host's link runs through a delay line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Self

from tests.helpers.delayline import DelayLine, Stats
from tests.helpers.netns import Namespace, connect
from tests.helpers.waiting import wait_for

DEVICE = "eth0"
QUEUE = "txqueuelen 10000"  # a delay line that is late must not lose frames by a short queue
NFT_TABLE = "inet network_drop"


class Host(Namespace):
    """A namespace with its addresses."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name)
        self.number = number
        self.address4 = f"192.0.2.{number}"
        self.address6 = f"2001:db8::{number}"

    def configure(self) -> None:
        """Addresses for the device that is there now; they can be used at once."""
        self.sysctl(f"net.ipv6.conf.{DEVICE}.accept_dad", 0)
        self.ip_lines(
            [
                f"link set {DEVICE} {QUEUE} up",
                f"address add {self.address4}/24 dev {DEVICE}",
                f"address add {self.address6}/64 dev {DEVICE} nodad",
            ]
        )


class Network:
    """`hosts` are name → number (1 to 254), `delayed` the names whose links run through the delay line."""

    def __init__(self, hosts: Mapping[str, int], delayed: Iterable[str] = ()) -> None:
        self.hosts: dict[str, Host] = {}
        self._line: DelayLine | None = None
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            self._build(undo, hosts, set(delayed))
            self._stack = undo.pop_all()

    def _build(self, undo: contextlib.ExitStack, hosts: Mapping[str, int], delayed: set[str]) -> None:
        self.switch = undo.enter_context(Namespace("switch"))
        # The switch speaks with nobody, and bridged packets are no business of its packet filter.
        for family in ("ip", "ip6", "arp"):
            with contextlib.suppress(FileNotFoundError):
                self.switch.sysctl(f"net.bridge.bridge-nf-call-{family}tables", 0)
        self.switch.ip("link", "add", "br0", "type", "bridge", "stp_state", "0", "mcast_snooping", "0")
        self.switch.sysctl("net.ipv6.conf.br0.disable_ipv6", 1)
        self.switch.ip("link", "set", "br0", "up")
        wires = {}
        for name, number in hosts.items():
            host = self.hosts[name] = undo.enter_context(Host(name, number))
            if name in delayed:
                wires[name] = (self.switch.tap(name), host.tap(DEVICE))
            else:
                connect(self.switch, host, name, DEVICE)
            self.switch.sysctl(f"net.ipv6.conf.{name}.disable_ipv6", 1)
            self.switch.ip_lines([f"link set {name} {QUEUE} master br0 up"])
            host.configure()
        if wires:
            self._line = undo.enter_context(DelayLine(wires))

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def cut(self, name: str) -> None:
        """The host's link goes down at the switch: no ICMP, no answer to ARP."""
        self.switch.ip("link", "set", name, "down")

    def mend(self, name: str) -> None:
        """The link is back, and carries when this returns."""
        self.switch.ip("link", "set", name, "up")
        ends = ((self.switch, name), (self.hosts[name], DEVICE))
        wait_for("carrier", lambda: all("LOWER_UP" in end.run("ip", "link", "show", of) for end, of in ends))

    def drop(self, name: str, match: str = "", hook: str = "input", verdict: str = "drop") -> None:
        """The host silently drops the packets that match (words of nft; all when empty) at the hook.

        At "output" and "postrouting" the sender is told EPERM; at "input" and "prerouting" nobody is. Another
        `verdict`, such as "reject with icmpx port-unreachable", does what it says.
        """
        self.hosts[name].nft(
            f"add table {NFT_TABLE}\n"
            f"add chain {NFT_TABLE} {hook} {{ type filter hook {hook} priority 0; }}\n"
            f"add rule {NFT_TABLE} {hook} {match} {verdict}\n"
        )

    def allow(self, name: str) -> None:
        """Take back all that `drop` did at this host."""
        self.hosts[name].nft(f"add table {NFT_TABLE}\ndelete table {NFT_TABLE}\n")

    def delay(self, name: str, seconds: float, loss: float = 0.0) -> None:
        """One way, for both ways of the link; in force when this returns."""
        assert self._line, "no host is delayed"
        self._line.set(name, seconds, loss)

    def line(self, name: str) -> Stats:
        """What the delay line did for this host so far."""
        assert self._line, "no host is delayed"
        return self._line.stats(name)

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
