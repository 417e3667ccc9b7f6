"""The core's checks, one row each. docs/doctor.md has a heading for each."""

from __future__ import annotations

from collections.abc import Iterator

from balancer.component import Check, Finding
from balancer.doctor import gathering
from balancer.doctor.addresses import judge_loopback, judge_missing, judge_paths
from balancer.doctor.limits import judge_buffers, judge_migration, judge_rights
from balancer.doctor.mail import Mail, judge_mail
from balancer.doctor.named import judge_named
from balancer.doctor.ports import judge_ports
from balancer.doctor.traffic import judge_tracking


def _judge_mail(facts: Mail | None) -> Iterator[Finding]:
    if facts is not None:
        yield from judge_mail(facts)


CHECKS = (
    Check("address", gathering.missing, judge_missing, "balancer"),
    Check("lvs", gathering.loopback, judge_loopback),
    Check("rp_filter", gathering.paths, judge_paths, "balancer"),
    Check("port", gathering.ports, judge_ports),
    Check("named", gathering.named, judge_named, "balancer"),
    Check("rights", gathering.rights, judge_rights),
    Check("buffers", gathering.buffers, judge_buffers, "balancer"),
    Check("tcp", gathering.migration, judge_migration, "balancer"),
    Check("conntrack", gathering.tracking, judge_tracking, "balancer"),
    Check("mail", gathering.mail, _judge_mail, seconds=4.0),
)
