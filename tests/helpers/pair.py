"""A cluster with both directors at work, ns7c0 active, and BIND on the servers."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.helpers.cluster import Cluster
from tests.helpers.daemon import Balancer
from tests.helpers.waiting import wait_for


class Pair:
    """`one` is the better director; a test that ends or starts a director says so here."""

    def __init__(self, cluster: Cluster, **settings: Any) -> None:
        self.cluster = cluster
        cluster.serve("ns7c1")
        self.other_server = cluster.serve("ns7c2")
        self.one, self.other = cluster.pair(**settings)
        self.settle()

    @property
    def both(self) -> tuple[Balancer, Balancer]:
        return self.one, self.other

    def settle(self) -> None:
        """As at the beginning."""
        for balancer in self.both:
            assert balancer.request("failover.auto")["ok"]
        self.cluster.wait_holder("ns7c0", 20)
        wait_for("both hear each other", lambda: all(self.cluster.state(each).get("heard") for each in self.both))
        wait_for("answers", self.cluster.answers)

    def counts(self, balancer: Balancer) -> Counter[str]:
        """What its failover process has counted; it names a count when it has come to one."""
        return Counter(wait_for("it answers", lambda: self.cluster.state(balancer))["counts"])

    def transitions(self) -> int:
        """Of both directors."""
        return sum(self.counts(each)["transitions"] for each in self.both)

    def stop(self) -> None:
        """The examined end of both."""
        self.other.stop()
        self.one.stop()
