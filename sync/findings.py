"""What would keep zones from being published or pulled, from facts. Pure; `doctor` collects them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from balancer.component import Finding

SKEW, FUDGE = 10.0, 300.0       # seconds; the second is what notify.FUDGE allows
# With `list = no`, as the sample has it, rsyncd says to a host that it refuses that the module is unknown.
_REFUSED = re.compile(r"@ERROR: (?:Unknown module|access denied|auth failed)")
_CLOSED = re.compile(r"Connection refused")


class Role(NamedTuple):
    """role: "publish", "pull" or ""; missing: (program, Debian package) not installed; store: why it cannot be used."""

    role: str
    missing: tuple[tuple[str, str], ...]
    store: str
    store_bad: bool


def judge_role(facts: Role) -> Iterator[Finding]:
    if not facts.role:
        yield Finding("neither sync.publisher nor one of sync.pullers is an address of this host",
                      "This host neither publishes nor pulls zones.",
                      "sed -i '/^\\[sync\\]/a role = \"pull\"' /etc/ns7/ns7.toml   # or \"publish\"", "error")
    for program, package in facts.missing:
        yield Finding(f"{program} is not installed", "sync cannot work without it.", f"apt-get install {package}",
                      "error")
    if facts.store_bad:
        yield Finding(f"sync.store {facts.store} is not there, or may not be written",
                      "There is no place for the zones.", f"install -d -o ns7 -g bind -m 2750 {facts.store}", "error")


def judge_key(facts: tuple[str, str]) -> Iterator[Finding]:
    """facts: (what is wrong with the shared key, its path)."""
    wrong, path = facts
    if wrong:
        yield Finding(wrong, "NOTIFYs and manifests are neither signed nor believed.",
                      f"tsig-keygen sync > {path} && chgrp ns7 {path} && chmod 640 {path}   # the same on every host",
                      "error")


class Rndc(NamedTuple):
    """key: the file with rndc's key; unreadable: why ns7's user cannot read it; refused: what rndc says, or ""."""

    key: str
    user: str
    unreadable: str
    refused: str


def judge_rndc(facts: Rndc) -> Iterator[Finding]:
    why = "named is not told to load what has changed, and goes on serving old zones."
    if facts.unreadable:
        absent = "No such file" in facts.unreadable
        yield Finding(f"rndc's key {facts.key} cannot be read by {facts.user}: {facts.unreadable}", why,
                      "rndc-confgen -a && chgrp bind /etc/bind/rndc.key && systemctl restart named" if absent else
                      f"usermod -aG bind {facts.user} && chgrp bind {facts.key} && chmod 640 {facts.key} && "
                      "systemctl restart ns7", "error")
    elif facts.refused:
        yield Finding(f"named does not take orders: {facts.refused}", why,
                      "systemctl restart named && rndc status", "error")


def judge_conf(facts: tuple[str, str, str]) -> Iterator[Finding]:
    """facts: (named.conf, what is wrong with it, the line that it misses)."""
    path, wrong, line = facts
    if wrong:
        yield Finding(wrong, "named would not start with it, and sync does not touch what it cannot read.",
                      f"named-checkconf {path}", "error")
    elif line:
        yield Finding(f"{path} does not include the zones", "The zones are here, and named does not serve them.",
                      f"echo '{line}' >> {path} && rndc reconfig", "error")


class Source(NamedTuple):
    """source: what is pulled from; code: of rsync (0: it answers); said: its last words."""

    source: str
    code: int
    said: str


def judge_source(facts: Source | None) -> Iterator[Finding]:
    if facts is None or facts.code == 0:
        return
    if _REFUSED.search(facts.said):
        fix = ("ns7 sample-config rsyncd -c /etc/ns7/ns7.toml > /etc/ns7/rsyncd.conf && systemctl restart ns7-rsyncd   "
               "# on the publisher, with this host in sync.pullers")
    elif _CLOSED.search(facts.said):
        fix = "systemctl enable --now ns7-rsyncd   # on the publisher"
    else:
        fix = f"rsync --list-only {facts.source}/"
    yield Finding(f"{facts.source} cannot be pulled from: {facts.said}",
                  "This host goes on serving the zones that it has, and gets no new ones.", fix, "error")


def judge_clocks(facts: tuple[tuple[str, float], ...]) -> Iterator[Finding]:
    """facts: (host, seconds by which its clock is ahead of ours)."""
    for host, ahead in facts:
        if abs(ahead) > SKEW:
            yield Finding(f"the clock of {host} is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} ours",
                          f"NOTIFYs are signed, and beyond {FUDGE:.0f} s they are not believed: changes wait for the "
                          "next poll.", f"timedatectl set-ntp true   # here and on {host}",
                          "error" if abs(ahead) > FUDGE else "warning")


def judge_published(nothing: bool) -> Iterator[Finding]:
    if nothing:
        yield Finding("nothing was published yet", "Pullers have nothing to pull.", "ns7 refresh --full")
