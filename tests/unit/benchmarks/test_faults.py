"""The fault trials without a network: what is judged, what is forged, what is read."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest

from benchmarks import goals
from benchmarks.__main__ import parser, plan
from benchmarks.faults import PEERS, ROWS, faults, trials_table
from benchmarks.faults.backends import BACKENDS
from benchmarks.faults.field import udp_in
from benchmarks.faults.killable import KILLER, answer
from benchmarks.faults.rows import answered_after_return, other_is_not_overrun, ramped_up, two_died
from benchmarks.faults.spoof import checksum, port_unreachable, ports_toward
from benchmarks.faults.trial import Fault, Trial
from benchmarks.lab import Address, LabError
from benchmarks.load import answers, query
from benchmarks.oneshot import Result
from benchmarks.servers import PROBE, ZONE

SOURCE, TARGET = Address("192.0.2.2", 40000), Address("192.0.2.11", 5300)


def trial(fault: Fault | None = None, result: Result | None = None, **seen: object) -> Trial:
    given: dict[str, object] = {"samples": [], "began": 2.0, "ended": 3.0, "line_late": 0.0, "upgraded": (), **seen}
    return Trial(fault or ROWS["killed"], "ns7", result or Result(), **given)  # type: ignore[arg-type]


def steady(one: float, other: float, seconds: float) -> list[tuple[float, int, int]]:
    """Samples each quarter second at these rates."""
    return [(n / 4, int(n / 4 * one), int(n / 4 * other)) for n in range(int(seconds * 4) + 1)]


def test_shares_by_time() -> None:
    assert trial(samples=steady(1000, 3000, 8)).shares(1, 2) == (1000, 3000)
    with pytest.raises(LabError):
        trial(samples=steady(1000, 3000, 8)).shares(9, 10)


@pytest.mark.parametrize(("other", "met"), [(5700, True), (6000, False)])
def test_load_on_the_other(other: float, met: bool) -> None:
    (goal,) = other_is_not_overrun(trial(samples=steady(0, other, 8), ended=5.0))
    assert goal.met is met


def test_ramp() -> None:
    samples = steady(0, 5000, 3)
    for n in range(13, 73):  # ten seconds of growth, then half
        second = n / 4
        share = min(0.5, (second - 3) / 20)
        samples.append((second, int(samples[-1][1] + 1250 * share), int(samples[-1][2] + 1250 * (1 - share))))
    first, last = ramped_up(trial(ROWS["returns"], samples=samples, ended=3.0))
    assert (first.met, last.met) == (True, True)
    at_once = steady(2500, 2500, 18)
    assert [goal.met for goal in ramped_up(trial(ROWS["returns"], samples=at_once, ended=3.0))] == [False, True]
    never = steady(0, 5000, 18)
    assert [goal.met for goal in ramped_up(trial(ROWS["returns"], samples=never, ended=3.0))] == [True, False]


@pytest.mark.parametrize(
    ("each", "met"),
    [
        ([(1.9, 5.0), (2.0, 1.1), (2.5, 0.6), (3.1, 5.0)], True),  # before and after is not asked for here
        ([(2.0, 1.1), (2.9, 0.5)], False),
        ([(2.0, 1.1), (2.9, None)], False),
    ],
)
def test_answered_after_the_return(each: list[tuple[float, float | None]], met: bool) -> None:
    (goal,) = answered_after_return(trial(ROWS["both"], Result(each=each)))
    assert goal.met is met


def test_a_late_delay_line_is_doubted() -> None:
    assert trial().doubts() == []
    assert "30 ms late" in trial(line_late=0.03).doubts()[0]


def test_told_without_the_long_lists() -> None:
    told = trial(result=Result(sent=3, lost=[0.1] * 1000, each=[(0.1, None)] * 1000)).told()
    assert told["lost"] == 1000
    assert len(told["lost_at"]) < 1000
    assert "each" not in told


def test_table() -> None:
    one = trial(result=Result(sent=40_000, lost=[0.1], late=1, rcodes={"NOERROR": 9, "SERVFAIL": 3}, p50=0.0012,
                              latest=0.5))
    one.remarks = "share 0.5"
    line = trials_table([one]).splitlines()[-1].split()
    assert line == ["server", "killed", "ns7", "40,000", "1", "1", "3", "1.20", "-", "500", "-", "share", "0.5"]


def test_every_latency_has_its_bars() -> None:
    for fault in ROWS.values():
        assert fault.slowest is None or set(fault.slowest) == set(goals.NOTICED_SLOWEST)
        assert fault.at < fault.until < fault.seconds


def test_forged_message_is_whole() -> None:
    message = port_unreachable(SOURCE, TARGET, b"odd")
    assert message[:2] == b"\3\3"
    assert checksum(message) == 0
    quoted = message[8:]
    assert checksum(quoted[:20]) == 0
    assert quoted[9] == socket.IPPROTO_UDP
    assert quoted[12:20] == socket.inet_aton(SOURCE.host) + socket.inet_aton(TARGET.host)
    assert struct.unpack("!HHH", quoted[20:26]) == (SOURCE.port, TARGET.port, 8 + 3)
    assert quoted[28:] == b"odd"


def test_ports_toward_a_server() -> None:
    lines = [
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid",
        "  1: 020200C0:9C40 0B0200C0:14B4 01 00000000:00000000 00:00000000 00000000     0",
        "  2: 020200C0:9C41 0C0200C0:14B4 01 00000000:00000000 00:00000000 00000000     0",
        "  3: 00000000:14B5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0",
    ]
    assert ports_toward(lines, TARGET) == [0x9C40]


def test_datagrams_of_a_host() -> None:
    lines = ["Ip: Forwarding", "Ip: 1", "Udp: InDatagrams NoPorts", "Udp: 12 3", "UdpLite: InDatagrams", "UdpLite: 7"]
    assert udp_in(lines) == 12


@pytest.mark.parametrize(("dead", "log", "met"), [
    (["s1", "s3"], "a query: killer.bench.example A", [True, True]), (["s1", "s2", "s3"], "", [False, False])])
def test_two_servers_died(dead: list[str], log: str, met: list[bool]) -> None:
    assert [goal.met for goal in two_died(trial(ROWS["killer"], dead=dead, log=log))] == met


def test_killable_server() -> None:
    asked = query(PROBE, 77)
    assert answers(asked, answer(asked) or b"")
    assert answer(query((f"{KILLER}.{ZONE}", "A"), 1)) is None


def test_two_thousand_zones(tmp_path: Path) -> None:
    backend = BACKENDS["bind2000"]
    backend.prepare(tmp_path)
    argv = backend.argv(tmp_path, "s1", Address("192.0.2.11", 5300))
    text = Path(argv[-1]).read_text()
    assert text.count("\nzone ") == 2000 and "listen-on port 5300 { 192.0.2.11; };" in text
    names = {line.split()[0] for line in backend.queries().splitlines()}
    assert len(names) == 1000 + 1999


def test_command_line() -> None:
    options, _ = plan(parser().parse_args(["faults", "--tcp", "--servers", "bind2000"]))
    assert options.tcp and options.backend == "bind2000"
    options, cases = plan(parser().parse_args(["faults", "--row", "cut", "--peers", "ns7"]))
    assert cases == (faults,)
    assert (options.rows, options.peers) == (("cut",), ("ns7",))
    assert plan(parser().parse_args(["faults"]))[0].peers == PEERS
