"""dnsperf's report, the prober's packets, percentiles."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.lab import Address, LabError
from benchmarks.load import answers, dnsperf_argv, parse_dnsperf, percentile, query

REPORT = """DNS Performance Testing Tool
Version 2.10.0

[Status] Command line: dnsperf -s 127.0.1.1 -p 20053 -d q -l 1 -c 20 -T 1 -q 1000
[Status] Sending queries (to 127.0.1.1:20053)
[Status] Testing complete (time limit)

Statistics:

  Queries sent:         302019
  Queries completed:    302016 (100.00%)
  Queries lost:         3 (0.00%)

  Response codes:       NOERROR 302000 (99.99%), SERVFAIL 16 (0.01%)
  Average packet size:  request 34, response 83
  Run time (s):         1.005746
  Queries per second:   300293.513472

  Average Latency (s):  0.002231 (min 0.000021, max 0.007870)
  Latency StdDev (s):   0.001357
"""


def test_report_is_read() -> None:
    load = parse_dnsperf(REPORT)
    assert (load.sent, load.completed, load.lost) == (302019, 302016, 3)
    assert load.qps == pytest.approx(300293.513472)
    assert load.run_time == pytest.approx(1.005746)
    assert (load.latency_avg, load.latency_min, load.latency_max) == (0.002231, 0.000021, 0.00787)
    assert load.rcodes == {"NOERROR": 302000, "SERVFAIL": 16}


def test_nothing_answered_has_no_latency() -> None:
    text = """
  Queries sent:         10
  Queries completed:    0 (0.00%)
  Queries lost:         10 (100.00%)

  Response codes:
  Average packet size:  request 34, response 0
  Run time (s):         5.0
  Queries per second:   0.000000
"""
    load = parse_dnsperf(text)
    assert (load.completed, load.lost, load.latency_max, load.rcodes) == (0, 10, 0.0, {})


@pytest.mark.parametrize("cut", ["Queries lost", "Run time", "Queries per second"])
def test_a_report_that_is_not_whole_is_refused(cut: str) -> None:
    text = "\n".join(line for line in REPORT.splitlines() if cut not in line)
    with pytest.raises(LabError, match=cut):
        parse_dnsperf(text)


def test_an_error_is_told_even_beside_statistics() -> None:
    with pytest.raises(LabError, match="failed to send"):
        parse_dnsperf(REPORT + "Error: failed to send packet: Invalid argument\n")


def test_command() -> None:
    argv = dnsperf_argv(Address("127.0.0.1", 53), Path("q"), 2.5, 10000)
    assert argv[argv.index("-l") + 1] == "2.5"
    assert argv[argv.index("-Q") + 1] == "10000"
    assert "-Q" not in dnsperf_argv(Address("127.0.0.1", 53), Path("q"), 20)


ASKED = query(("n1.bench.example", "A"), 0xABCD)


def test_query_bytes() -> None:
    header, question = ASKED[:12], ASKED[12:]
    assert header == bytes.fromhex("abcd 0000 0001 0000 0000 0000")
    assert question == b"\x02n1\x05bench\x07example\x00\x00\x01\x00\x01"


def test_only_the_true_answer_counts() -> None:
    true = ASKED[:2] + b"\x84\x00" + ASKED[4:] + b"answer"
    assert answers(ASKED, true)
    assert not answers(ASKED, ASKED)  # QR not set
    assert not answers(ASKED, b"\x00\x00" + true[2:])
    assert not answers(ASKED, true[:3] + b"\x02" + true[4:])  # SERVFAIL
    assert not answers(ASKED, true.replace(b"n1", b"n2"))
    assert not answers(ASKED, true[:11])
    assert not answers(ASKED, b"")


def test_percentile() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert percentile(values, 0.50) == 51.0
    assert percentile(values, 0.99) == 100.0
    assert percentile([3.0], 0.99) == 3.0
    assert percentile([], 0.5) is None
