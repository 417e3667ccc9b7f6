"""A component that uses every part of the contract, so that tests can see each of them work."""

from balancer.component import Component, Rights

COMPONENT = Component(
    "witness", config="witness.config:Witness", main="witness.runner:main", rights=Rights(("NET_RAW",)), spare=True,
    commands="witness.commands:commands", status="witness.facts:status", metrics="witness.facts:metrics",
    doctor="witness.facts:CHECKS")
