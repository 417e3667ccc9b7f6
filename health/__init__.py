"""Health: who can serve. Its own process probes the servers and writes the verdicts; docs/health.md is the manual."""

from balancer.component import Component, Rights

COMPONENT = Component(
    "health", config="health.config:Health", main="health.runner:main", rights=Rights(verdicts=True),
    commands="health.commands:commands", status="health.facts:status", metrics="health.facts:metrics",
    doctor="health.doctor:CHECKS")
