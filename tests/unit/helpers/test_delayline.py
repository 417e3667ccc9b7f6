"""The delay line over socket pairs: in order, never early, everything accounted for."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from tests.helpers.carry import Wire
from tests.helpers.delayline import LEAST_REST, MOST_REST, DelayLine, rest
from tests.helpers.waiting import PATIENCE, wait_for


class Ends:
    """The two far ends of a wire, and the line between."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
        for far, near in pairs:
            stack.enter_context(far).settimeout(PATIENCE)
            near.setblocking(False)
        self.left, self.right = pairs[0][0], pairs[1][0]
        self.line = stack.enter_context(DelayLine({"wire": (pairs[0][1].detach(), pairs[1][1].detach())}))


@pytest.fixture
def ends() -> Iterator[Ends]:
    with contextlib.ExitStack() as stack:
        yield Ends(stack)


@pytest.mark.parametrize("delay", [0.0001, 0.002, 0.02, 0.4])
def test_never_early(ends: Ends, delay: float) -> None:
    ends.line.set("wire", delay)
    for near, far in ((ends.left, ends.right), (ends.right, ends.left)):
        sent = time.monotonic()
        near.send(b"frame")
        assert far.recv(100) == b"frame"
        # It may have come up to one rest of the line before it was seen, but no frame is seen before it came.
        assert delay - 1e-5 <= time.monotonic() - sent < delay + 5


def test_order_is_kept_while_the_delay_changes(ends: Ends) -> None:
    count, got = 2000, []
    for number in range(count):
        if number % 100 == 0:
            ends.line.set("wire", (number // 100 % 5) * 0.004)
        ends.left.send(number.to_bytes(2, "big"))
        if number % 50 == 49:  # a socket pair holds few datagrams
            got += [int.from_bytes(ends.right.recv(100), "big") for _ in range(50)]
    assert got == list(range(count))
    assert ends.line.stats("wire").passed == count


def test_a_shortened_delay_holds_for_what_is_on_the_wire(ends: Ends) -> None:
    ends.line.set("wire", 600)
    for number in range(5):
        ends.left.send(bytes([number]))
    wait_for("frames on the wire", lambda: ends.line.stats("wire").waiting == 5)
    time.sleep(0.6)
    ends.line.set("wire", 0.001)
    assert [ends.right.recv(100)[0] for _ in range(5)] == [0, 1, 2, 3, 4]
    # That they waited longer than the delay is now was asked for, and is no lateness.
    assert ends.line.stats("wire").late < 0.5


def test_loss(ends: Ends) -> None:
    ends.line.set("wire", 0.0001, 0.5)
    ends.right.settimeout(0)
    for _ in range(2000):
        ends.left.send(b"frame")
        with contextlib.suppress(BlockingIOError):
            ends.right.recv(100)

    def seen() -> bool:
        stats = ends.line.stats("wire")
        return stats.passed + stats.lost == 2000

    wait_for("all seen", seen)
    lost = ends.line.stats("wire").lost
    assert 800 < lost < 1200, "nine standard deviations"
    ends.line.set("wire", 0.0001, 1)
    ends.left.send(b"frame")
    wait_for("the last is lost too", lambda: ends.line.stats("wire").lost == lost + 1)


def test_an_end_that_is_down_is_counted(ends: Ends) -> None:
    ends.right.close()
    ends.left.send(b"frame")
    wait_for("refused", lambda: ends.line.stats("wire").refused == 1)


def test_lateness_is_told_once(ends: Ends) -> None:
    ends.left.send(b"frame")
    ends.right.recv(100)
    assert 0 < ends.line.stats("wire").late < 10
    assert ends.line.stats("wire").late == 0


def test_it_ends_with_its_starter(ends: Ends) -> None:
    assert ends.line.process.stdin
    ends.line.process.stdin.close()
    assert ends.line.process.wait(PATIENCE) == 0


def test_the_rest_is_a_tenth_of_the_shortest_delay() -> None:
    def resting(*milliseconds: float) -> int:
        wires = {str(number): Wire(0, 0) for number in range(len(milliseconds))}
        for wire, delay in zip(wires.values(), milliseconds, strict=True):
            wire.delay_ns = round(delay * 1e6)
        return rest(wires)

    assert resting(0) == 0
    assert resting(0.06) == 30_000
    assert resting(20, 0.2) == resting(0.2) == resting(0.5) == LEAST_REST
    assert resting(2, 20) == 200_000
    assert resting(400) == MOST_REST
