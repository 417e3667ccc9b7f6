"""The core's judgements: facts in, findings out."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.component import SEVERITIES, Finding, Held, User
from balancer.config.values import Endpoint
from balancer.doctor import clock
from balancer.doctor.addresses import (
    Addresses,
    Arrival,
    Loopback,
    Paths,
    judge_loopback,
    judge_missing,
    judge_paths,
)
from balancer.doctor.kernel import Bound, Program
from balancer.doctor.limits import Buffers, Rights, judge_buffers, judge_migration, judge_rights
from balancer.doctor.mail import Mail, judge_mail
from balancer.doctor.named import Conf, Named, covers, judge_named, takes
from balancer.doctor.ports import Ports, clashes, judge_ports
from balancer.doctor.traffic import Tracking, judge_tracking
from balancer.namedconf import body, parse

VIP = "192.0.2.90"
OWN = Held("192.0.2.88", 24, "eth0", True)
WANTED = (("udp", Endpoint(VIP, 53)), ("tcp", Endpoint(VIP, 53)))
ROOT = User("root", 0, 0, frozenset({"NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW"}), True)


def one(findings: object) -> Finding:
    """The only one; what it says must be fit to print and to paste."""
    (finding,) = list(findings)  # type: ignore[call-overload]
    assert isinstance(finding, Finding) and finding.severity in SEVERITIES
    assert "\n" not in finding.what + finding.why and finding.why.endswith(".")
    subprocess.run(["sh", "-n"], input=finding.fix, text=True, check=True)
    return finding


def test_missing_addresses() -> None:
    facts = Addresses((("service[0].listen", VIP), ("service[0].server[1].source", OWN.address)), (OWN,), "eth0")
    assert one(judge_missing(facts)).fix == f"ip address add {VIP}/32 dev eth0"
    assert list(judge_missing(facts._replace(held=(OWN, Held(VIP, 32, "lo", True))))) == []
    assert list(judge_missing(Addresses((("service[0].listen", "::"),), (OWN,), ""))) == []


@pytest.mark.parametrize(("floating", "balances", "found"), [
    (True, True, True), (True, False, True), (False, False, True), (False, True, False)])
def test_left_on_loopback(floating: bool, balances: bool, found: bool) -> None:
    """On lo an address is right only where it stays and is served: anycast."""
    left = Held(VIP, 32, "lo", True)
    facts = Loopback(frozenset({VIP}), frozenset({VIP} if floating else ()), balances, (OWN, left))
    assert bool(list(judge_loopback(facts))) is found
    assert list(judge_loopback(facts._replace(held=(OWN, left._replace(device="eth0"))))) == []


def test_reverse_paths() -> None:
    arrival = Arrival(VIP, "eth0", ("eth1",), True)
    assert "rp_filter=2" in one(judge_paths(Paths((arrival, arrival), 7))).fix
    for right in (arrival._replace(strict=False), arrival._replace(leaves=("eth0", "", "lo"))):
        assert list(judge_paths(Paths((right,), 0))) == []


def bound(host: str, port: int = 53, proto: str = "udp", only6: bool = False, inode: int = 7) -> Bound:
    return Bound(proto, host, port, inode, only6, 0)


@pytest.mark.parametrize(("theirs", "ours", "clash"), [
    (bound(VIP), VIP, True), (bound("0.0.0.0"), VIP, True), (bound(VIP), "0.0.0.0", True), (bound("::"), VIP, True),
    (bound("::", only6=True), VIP, False), (bound("127.0.0.53"), VIP, False), (bound(VIP, 54), VIP, False),
    (bound(VIP, proto="tcp"), VIP, False), (bound("0.0.0.0"), "2001:db8::90", False),
    (bound("::", only6=True), "2001:db8::90", True)])
def test_clashes(theirs: Bound, ours: str, clash: bool) -> None:
    assert clashes(theirs, "udp", Endpoint(ours, 53)) is clash


def test_taken_ports() -> None:
    resolved = Program(5, "systemd-resolve", "systemd-resolved.service", ())
    facts = Ports(WANTED, (bound("0.0.0.0"), bound("0.0.0.0", proto="tcp", inode=8)), {7: resolved, 8: resolved})
    finding = one(judge_ports(facts))
    assert "0.0.0.0:53/tcp, 0.0.0.0:53/udp" in finding.what and "DNSStubListener=no" in finding.fix
    for program, fix in ((Program(5, "dnsmasq", "dnsmasq.service", ()), "systemctl disable --now dnsmasq.service"),
                         (Program(5, "x", "", ()), "kill 5")):
        assert one(judge_ports(Ports(WANTED, (bound(VIP),), {7: program}))).fix == fix
    assert "another program" in one(judge_ports(Ports(WANTED, (bound(VIP),), {}))).what
    assert list(judge_ports(Ports(WANTED, (bound(VIP),), {7: Program(5, "named", "", ())}))) == []


CONFS = [
    ("", True), ("listen-on { any; };", True), ("listen-on { 127.0.0.1; 192.0.2.88; };", False),
    ("listen-on { localnets; };", True), ("listen-on { !192.0.2.90; any; };", False), ("listen-on { none; };", False),
    ("listen-on { ours; };", True), ("listen-on { { !192.0.2.0/24; any; }; };", False),
    ("listen-on port 5353 { any; };", False), ("port 5353;", False), ("listen-on { key \"x\"; };", False),
    ("listen-on port 53 { 192.0.2.88; }; listen-on port 53 { 192.0.2.0/24; };", True),
]


@pytest.mark.parametrize(("text", "taken"), CONFS)
def test_what_named_takes(text: str, taken: bool) -> None:
    acls = {"ours": body(parse("acl ours { 192.0.2.90; };")[0])}
    assert takes(parse(text), acls, Endpoint(VIP, 53), (OWN,)) is taken
    facts = Named(WANTED, (Conf(0, f"options {{ {text} }}; acl ours {{ 192.0.2.90; }};", "/x"),), (), (OWN,),
                  frozenset({VIP}))
    assert bool(list(judge_named(facts))) is taken


def test_an_acl_of_itself_ends() -> None:
    loop = parse("acl a { a; };")
    assert covers(body(loop[0]), VIP, {"a": body(loop[0])}, ()) is None


@pytest.mark.parametrize("text", [
    "options { directory \"/x\"; };", "options {\n  listen-on port 53 { any; };\n  listen-on-v6 { any; };\n};",
    "options\n{\n  listen-on {\n    any;\n  };\n  automatic-interface-scan yes;\n};"])
def test_its_fix_mends(tmp_path: Path, text: str) -> None:
    file = tmp_path / "named.conf"
    file.write_text(text)
    facts = Named(WANTED, (Conf(9, text, str(file)),), (bound(VIP),), (OWN,), frozenset({VIP}))
    finding = one(judge_named(facts))
    assert "(pid 9) holds" in finding.what
    subprocess.run(finding.fix.partition(" && ")[0], shell=True, check=True)
    mended = file.read_text()
    assert "listen-on { 127.0.0.1; 192.0.2.88; };" in mended
    after = Named(WANTED, (Conf(9, mended, str(file)),), (), (OWN,), frozenset({VIP}))
    assert list(judge_named(after)) == []
    still = one(judge_named(after._replace(holding=(bound(VIP),))))
    assert still.fix == "rndc reconfig", "it holds what its file no longer says"


def test_when_named_would_take_it() -> None:
    def said(pid: int, options: str) -> str:
        return one(judge_named(Named(WANTED, (Conf(pid, f"options {{ {options} }};", "/x"),), (), (OWN,),
                                     frozenset()))).what

    assert "when it starts" in said(0, "")
    assert "as soon as" in said(1, "") and "within an hour" in said(1, "automatic-interface-scan no;")


def test_rights() -> None:
    needed = (("NET_ADMIN", "failover"), ("NET_RAW", "failover"))
    assert list(judge_rights(Rights(needed, ROOT))) == []
    finding = one(judge_rights(Rights(needed, User("ns7", 9, 9, frozenset({"NET_RAW"}), False))))
    assert "would run as ns7 without CAP_NET_ADMIN (failover)" in finding.what


def test_buffers() -> None:
    most = (("net.core.rmem_max", 212992), ("net.core.wmem_max", None))
    facts = Buffers(1 << 24, (), most, False)
    assert "net.core.rmem_max are below" in one(judge_buffers(facts)).what
    assert list(judge_buffers(facts._replace(forced=True))) == []
    assert list(judge_buffers(facts._replace(granted=((VIP, 1 << 24),)))) == [], "what is granted counts"
    assert VIP in one(judge_buffers(facts._replace(forced=True, granted=((VIP, 212992),)))).what
    assert list(judge_migration(1)) == list(judge_migration(None)) == []
    one(judge_migration(0))


def test_tracking() -> None:
    facts = Tracking(9, 262144, 0, False, (53,))
    assert "notrack" in one(judge_tracking(facts)).fix
    one(judge_tracking(facts._replace(exempt=None, flows=None)))
    for right in (facts._replace(tracked=0), facts._replace(exempt=True)):
        assert list(judge_tracking(right)) == []


def test_mail() -> None:
    facts = Mail("mail.example", False, (VIP,), frozenset({VIP}), "", {}, "192.0.2.25")
    assert one(judge_mail(facts)).fix == "echo '192.0.2.25 mail.example' >> /etc/hosts"
    elsewhere = facts._replace(resolvers=(VIP, "198.51.100.1"))
    for right in (elsewhere, facts._replace(known=True), facts._replace(resolvers=())):
        assert list(judge_mail(right)) == []
    ours = elsewhere._replace(zone="example", authorities={"ns7.example": (VIP,)}, address="")
    assert "smtp" in one(judge_mail(ours)).fix
    for names in ({"ns7.example": (VIP,), "ns.other": ()}, {"ns7.example": (VIP, "198.51.100.2")}):
        assert list(judge_mail(ours._replace(authorities=names))) == []


@given(st.binary(max_size=600), st.booleans())
def test_any_answer_about_time(data: bytes, head: bool) -> None:
    """Whatever comes back is a time or nothing."""
    made = clock.read((b"\0\7\x80\0" if head else b"") + data, 7, 10)
    assert made is None or 0 < made < 1 << 48


def test_time_in_an_answer() -> None:
    now = 1_800_000_000
    asked = clock.question(7, b"key", now)
    answer = asked[:2] + b"\x80\x09" + asked[4:]
    assert clock.read(answer, 7, 10) == now
    assert clock.read(answer, 8, 10) is None, "another query's"
    assert clock.read(asked, 7, 10) is None, "no answer"
    assert clock.read(answer, 7, now + 5) is None, "our own time, copied"


def test_fixes_are_quoted() -> None:
    facts = Named(WANTED, (Conf(0, "options { };", "/etc/a b/named.conf"),), (), (OWN,), frozenset())
    assert "/etc/a b/named.conf" in shlex.split(one(judge_named(facts)).fix)
