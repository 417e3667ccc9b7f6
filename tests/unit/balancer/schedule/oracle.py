"""Plain-Python oracles of the schedulers, written from the published rules named in each docstring.

They favour plainness over speed and share no code with the compiled schedulers. `servers` is a list of
(slot, weight) with weight 0 meaning drained; `load` maps a slot to its queries in flight.
"""

from __future__ import annotations

from fractions import Fraction

STRIDE = 2**32


class LeastOracle:
    """ip_vs_wlc.c / ip_vs_lc.c: least load per weight (or least load); equals by stride scheduling (TM-528)."""

    def __init__(self, servers, weighted):
        self.change(servers, weighted)
        self.due = {}
        self.now = 0

    def change(self, servers, weighted):
        """Another list; turns go on."""
        self.servers = [(slot, weight if weighted else 1) for slot, weight in servers if weight]

    def pick(self, load, exclude=None):
        usable = [(slot, weight) for slot, weight in self.servers if slot != exclude]
        if not usable:
            return None
        least = min(Fraction(load.get(slot, 0), weight) for slot, weight in usable)
        equals = [(slot, weight) for slot, weight in usable if Fraction(load.get(slot, 0), weight) == least]
        slot, weight = min(equals, key=lambda server: self.due.get(server[0], 0))
        self.now = max(self.now, self.due.get(slot, 0))
        self.due[slot] = self.now + STRIDE // weight
        return slot


class RoundRobinOracle:
    """ip_vs_rr.c: the next usable destination after the one used last."""

    def __init__(self, servers):
        self.slots = [slot for slot, weight in servers if weight]
        self.last = -1

    def pick(self, load, exclude=None):
        order = [s for s in self.slots if s > self.last] + [s for s in self.slots if s <= self.last]
        for slot in order:
            if slot != exclude:
                self.last = slot
                return slot
        return None


class WeightedRoundRobinOracle:
    """LVS's weighted round-robin: the pseudo-code of the LVS knowledge base, max, gcd and a level that sinks."""

    def __init__(self, servers):
        import math

        self.servers = [(slot, weight) for slot, weight in servers if weight]
        self.gcd = math.gcd(*(weight for _, weight in self.servers)) if self.servers else 0
        self.most = max((weight for _, weight in self.servers), default=0)
        self.i = -1
        self.cw = 0

    def pick(self, load, exclude=None):
        if not any(slot != exclude for slot, _ in self.servers):
            return None
        while True:
            self.i = (self.i + 1) % len(self.servers)
            if self.i == 0:
                self.cw -= self.gcd
                if self.cw <= 0:
                    self.cw = self.most
            if self.servers[self.i][1] >= self.cw and self.servers[self.i][0] != exclude:
                return self.servers[self.i][0]


class SourceHashOracle:
    """ip_vs_sh.c with sh-fallback: 256 buckets filled by weight in list order, hash_32(address)."""

    def __init__(self, servers):
        usable = [(slot, weight) for slot, weight in servers if weight]
        size = 256
        while size < sum(weight for _, weight in usable) and size < 65536:
            size *= 2
        run = [slot for slot, weight in usable for _ in range(min(weight, size))]
        self.buckets = [run[i % len(run)] for i in range(size)] if run else []

    def pick(self, key, exclude=None):
        if not self.buckets:
            return None
        bits = len(self.buckets).bit_length() - 1
        start = (key * 0x61C88647 & 0xFFFFFFFF) >> (32 - bits)
        for offset in range(len(self.buckets)):
            slot = self.buckets[(start + offset) % len(self.buckets)]
            if slot != exclude:
                return slot
        return None
