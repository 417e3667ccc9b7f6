"""Runs checks side by side, each in a thread with a deadline; whatever one of them does, the others go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from balancer.component import Check, Finding, Site, components, resolve
from balancer.config import Config
from balancer.doctor.checks import CHECKS
from balancer.doctor.site import LocalSite, who_runs
from balancer.errors import Unseen

LONGEST = 4.0               # seconds for all of them together
WHY_UNSEEN = "What was not looked at may be wrong."


class Result(NamedTuple):
    """A finding and the check that made it, such as "failover.arp"."""

    check: str
    finding: Finding


def examine(config: Config, ask: Callable[[str], Any]) -> list[Result]:
    """Every finding of the core and of the components, worst first. ask(verb): the running ns7, or ControlError."""
    site = LocalSite(config, config, who_runs(ask), ask)
    return run([(name, check, site.about(section)) for name, check, section in _checks(config)
                if not check.role or check.role in config.roles])


def _checks(config: Config) -> Iterator[tuple[str, Check, Any]]:
    for check in CHECKS:
        yield check.name, check, config
    for name, record in sorted(components().items()):
        if record.doctor:
            for check in resolve(record.doctor):
                yield f"{name}.{check.name}", check, getattr(config, name)


def run(checks: list[tuple[str, Check, Site]]) -> list[Result]:
    """The findings of these checks; at most LONGEST seconds."""
    begun = time.monotonic()
    found: dict[str, list[Finding]] = {}

    def look(name: str, check: Check, site: Site) -> None:
        found[name] = _look(check, site)

    # Not a pool: what a dead file system or name server holds up must not hold up the end of the program.
    threads = [(name, check, threading.Thread(target=look, args=(name, check, site), name=name, daemon=True))
               for name, check, site in checks]
    for _, _, thread in threads:
        thread.start()
    results = []
    for name, check, thread in threads:
        seconds = min(check.seconds, LONGEST)
        thread.join(max(0.0, begun + seconds - time.monotonic()))
        findings = found.get(name)
        if findings is None:
            findings = [Finding(f"{name} did not end within {seconds:g} s", WHY_UNSEEN, "ns7 doctor", "unknown")]
        results += [Result(name, finding) for finding in findings]
    # What keeps several checks from looking is told once.
    results = list({result.finding: result for result in reversed(results)}.values())[::-1]
    worst = ("error", "unknown", "warning")
    return sorted(results, key=lambda result: worst.index(result.finding.severity))


def _look(check: Check, site: Site) -> list[Finding]:
    try:
        return list(check.judge(check.gather(site)))
    except Unseen as error:
        return [Finding(str(error), WHY_UNSEEN, error.fix, "unknown")]
    except PermissionError as error:
        return [Finding(f"{check.name} cannot be looked at: {error}", WHY_UNSEEN, "sudo ns7 doctor", "unknown")]
    except Exception as error:      # a check meets anything: what it did not expect must not hide the others' findings
        return [Finding(f"{check.name} cannot be looked at: {error!r}"[:500], WHY_UNSEEN, "ns7 doctor", "unknown")]
