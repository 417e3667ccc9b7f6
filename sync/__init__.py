"""Sync: zones edited on the publisher are served by every puller. A component of its own process.

Each module knows one thing. Pure: namedconf (what named's configuration says), manifest (what a generation is), plan
(what changed, what is suspicious, when to try), notify (signed messages). Shells: store (generations on disk), programs
(rsync, rndc, named-check*), named (this host's name server), publish and pull (the two ways of a change), runner.
"""

from balancer.component import Component

COMPONENT = Component(
    "sync", config="sync.config:Sync", main="sync.runner:main", commands="sync.commands:commands",
    status="sync.metrics:status", metrics="sync.metrics:metrics", doctor="sync.doctor:CHECKS",
    samples={"rsyncd": "sync.samples:rsyncd"})
