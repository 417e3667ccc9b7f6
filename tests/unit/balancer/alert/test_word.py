"""The mail and the facts for a command: right for any text whatsoever."""

from __future__ import annotations

import json
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.alert import word
from balancer.alert.group import (
    CALM,
    CHANGE,
    FLAPPING,
    MOST_ITEMS,
    PROBLEM,
    RECOVERY,
    REMINDER,
    TEST,
    Item,
    Notice,
)
from balancer.component import lapse

TIME = 1.7e9


def item(what: str = PROBLEM, subject: str = "ns7/ns7c1", before: str = "up", after: str = "down",
         reason: str = "no answer", lasted: float = 0.0, first: int = 0) -> Item:
    return Item(what, "server", subject, before, after, reason, TIME, TIME - lasted, 17, first, 5)


def mail(notice: Notice, node: str = "ns7c0", dropped: int = 0) -> tuple[dict[str, str], str]:
    data = word.mail(notice, node, "ns7@example.com", ("a@example.com", "b@example.org"), dropped)
    message = message_from_bytes(data, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return {name: str(value) for name, value in message.items()}, message.get_content()


@pytest.mark.parametrize(
    ("news", "text"),
    [
        (item(), "server ns7/ns7c1 is down"),
        (item(RECOVERY, before="down", after="up", lasted=200), "server ns7/ns7c1 is up, was down for 3 min 20 s"),
        (item(CHANGE, before="standby", after="active"), "server ns7/ns7c1 is active, was standby"),
        (item(CHANGE, before="", after="active"), "server ns7/ns7c1 is active"),
        (item(REMINDER, before="down", lasted=7200), "server ns7/ns7c1 is still down, for 2 h now"),
        (item(FLAPPING), "server ns7/ns7c1 is flapping, down now"),
        (item(CALM, before="flapping"), "server ns7/ns7c1 is calm again, down after 5 more changes"),
    ],
)
def test_headlines(news: Item, text: str) -> None:
    headers, body = mail(Notice(1, TIME, (news,)))
    assert headers["Subject"] == f"[ns7] ns7c0: {text}"
    assert text in body.splitlines()


def test_names() -> None:
    assert word.name_of("server", "ns7/ns7c1") == "server ns7/ns7c1"
    assert word.name_of("worker", "worker 0") == "worker 0"


def test_mail() -> None:
    headers, body = mail(Notice(123, TIME, (item(), item(RECOVERY, "ns7/ns7c2", "down", "up", lasted=3, first=99))))
    assert headers["Subject"] == (
        "[ns7] ns7c0: 1 problem, 1 recovery: server ns7/ns7c1 is down; server ns7/ns7c2 is up, was down for 3 s")
    assert headers["From"] == "ns7@example.com"
    assert headers["To"] == "a@example.com, b@example.org"
    assert headers["Message-ID"] == "<123.ns7@ns7c0>"
    assert headers["References"] == "<99.ns7@ns7c0>"
    assert headers["Auto-Submitted"] == "auto-generated"
    assert headers["Content-Type"] == 'text/plain; charset="utf-8"'
    assert "reason: no answer" in body
    assert "ns7 alert ack 17" in body


def test_dropped_and_left_out_are_told() -> None:
    headers, body = mail(Notice(1, TIME, (item(),) * MOST_ITEMS, more=77), dropped=12)
    assert "12 messages were dropped" in body
    assert "and 77 more" in body
    assert headers["Subject"].startswith("[ns7] ns7c0: 200 problems, 77 more: ")
    assert len(headers["Subject"]) < 200


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "less than a second"), (0.2, "less than a second"), (1, "1 s"), (59.6, "1 min"), (200, "3 min 20 s"),
     (3600, "1 h"), (90061, "1 d 1 h"), (86400 * 400 + 5, "400 d 5 s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert lapse(seconds) == text


@pytest.mark.parametrize("evil", ["x\r\nBcc: all@example.com", "x\nBcc: y", "x\x00y", "x\x1b[31m", "\u2028Bcc: z",
                                  "=?utf-8?q?x?=", "\ud800", "웹\N{PILE OF POO}", "x" * 500, " lead",
                                  "a" * 60 + "\r\n."])
def test_nothing_can_be_injected(evil: str) -> None:
    notice = Notice(5, TIME, (Item(PROBLEM, evil, evil, evil, evil, evil, TIME, TIME, 17),))
    headers, body = mail(notice, node=evil)
    assert set(headers) == {"From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "Content-Type",
                            "Content-Transfer-Encoding", "MIME-Version"}
    assert not any("\n" in value or "\r" in value for value in headers.values())
    assert len(body.splitlines()) == 6, "no reason makes a line of its own"


NAMES = st.text(max_size=60)
WORDS = st.text(max_size=40)
TIMES = st.floats(0, 1e11)
ITEMS = st.builds(
    Item, st.sampled_from([PROBLEM, RECOVERY, CHANGE, REMINDER, FLAPPING, CALM, TEST]), WORDS,
    st.text(max_size=200), WORDS, WORDS, st.text(max_size=500), TIMES, TIMES, st.integers(0, 10**6),
    st.integers(0, 10**14), st.integers(0, 10**6))
NOTICES = st.builds(Notice, st.integers(1, 10**14), TIMES, st.lists(ITEMS, min_size=1, max_size=5).map(tuple),
                    st.integers(0, 9))


@given(NOTICES, NAMES, st.integers(0, 1000))
def test_any_notice_is_a_right_mail(notice: Notice, node: str, dropped: int) -> None:
    """7 bits, lines of at most 998 bytes ended by CR LF, the headers as meant, the text as it was."""
    data = word.mail(notice, node, "ns7@example.com", ("a@example.com",), dropped)
    assert data.isascii() and b"\0" not in data
    lines = data.split(b"\r\n")
    assert not any(b"\r" in line or b"\n" in line or len(line) > 998 for line in lines)
    headers, body = mail(notice, node, dropped)
    assert headers["Subject"] == f"[ns7] {word.title(notice, node)}"
    assert headers["Message-ID"] == word.message_id(notice.number, node)
    assert f"Message-ID: {word.message_id(notice.number, node)}".encode() in lines
    assert body.replace("\r\n", "\n") == word.text(notice, node, dropped)


@given(NOTICES, NAMES)
def test_any_notice_is_a_right_environment(notice: Notice, node: str) -> None:
    env = word.environment(notice, node, 0)
    for name, value in env.items():
        assert name.startswith("NS7_ALERT_") and name.isupper()
        assert "\0" not in value and len(value.encode()) < 100_000
    assert env["NS7_ALERT_AFTER"] == word.clean(notice.items[0].after)
    rows = [json.loads(line) for line in word.lines(notice).splitlines()]
    assert [row["what"] for row in rows] == [each.what for each in notice.items]
