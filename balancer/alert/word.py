"""The words of an alert: a mail, and the facts for a command. Runs in the alert process. Pure.

What comes in is not trusted to be printable: control characters become spaces, so that no state or reason can add a
header (RFC 5322 §2.2) or a line, and whatever is not UTF-8 becomes a question mark.
"""

from __future__ import annotations

import json
from base64 import b64encode, encodebytes
from collections import Counter
from datetime import datetime
from email.utils import format_datetime
from typing import Any

from balancer.alert.group import CALM, CHANGE, FLAPPING, PROBLEM, RECOVERY, REMINDER, TEST, Item, Notice
from balancer.component import lapse

MOST_TITLE = 160            # characters
MOST_TEXT = 16000           # in the environment of a command
_SCORED = {PROBLEM: "problem", RECOVERY: "recovery", CHANGE: "change", REMINDER: "reminder", FLAPPING: "flapping",
           CALM: "calm again", TEST: "test"}
_PLURAL = {"problem": "problems", "recovery": "recoveries", "change": "changes", "reminder": "reminders"}


def clean(text: str) -> str:
    """One printable line."""
    text = text.encode("utf-8", "replace").decode()
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def moment(time: float) -> str:
    """Seconds since 1970 as this host's local time."""
    return datetime.fromtimestamp(time).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def name_of(kind: str, subject: str) -> str:
    """What something is called: "server ns7/ns7c1", "worker 0"."""
    return clean(subject if subject.startswith(f"{kind} ") else f"{kind} {subject}")


def headline(item: Item) -> str:
    """What happened, in one line."""
    name, before, after = name_of(item.kind, item.subject), clean(item.before), clean(item.after)
    lasted = lapse(item.time - item.since)
    return {
        PROBLEM: f"{name} is {after}",
        RECOVERY: f"{name} is {after}, was {before} for {lasted}",
        CHANGE: f"{name} is {after}" + (f", was {before}" if before else ""),
        REMINDER: f"{name} is still {before}, for {lasted} now",
        FLAPPING: f"{name} is flapping, {after} now",
        CALM: f"{name} is calm again, {after} after {item.changes} more changes",
        TEST: "this is a test",
    }[item.what]


def title(notice: Notice, node: str) -> str:
    """The whole notice in one line: the subject of the mail."""
    text = headline(notice.items[0])
    if len(notice.items) + notice.more > 1:
        counts = Counter(_SCORED[item.what] for item in notice.items)
        counts["more"] += notice.more
        told = ", ".join(f"{count} {_PLURAL.get(word, word) if count > 1 else word}" for word, count in counts.items()
                         if count)
        text = f"{told}: {'; '.join(headline(item) for item in notice.items[:3])}"
    text = f"{clean(node)}: {text}"
    return text if len(text) <= MOST_TITLE else text[:MOST_TITLE - 3] + "..."


def text(notice: Notice, node: str, dropped: int) -> str:
    """The body of the mail. dropped: messages that were thrown away since the last one was delivered."""
    lines = [f"ns7 on {clean(node)}, {moment(notice.time)}"]
    if dropped:
        lines += ["", f"Before this one {dropped} messages were dropped: they could not be delivered in time. "
                      "`ns7 alert list` shows what is wrong now."]
    for item in notice.items:
        lines += ["", headline(item)]
        if item.reason:
            lines.append(f"  reason: {clean(item.reason)}")
        lines.append(f"  {'since' if item.what == REMINDER else 'at'}:".ljust(10)
                     + moment(item.since if item.what == REMINDER else item.time))
        if item.what in (PROBLEM, FLAPPING, REMINDER) and item.id:
            lines.append(f"  alert:  {item.id}  (no reminders: ns7 alert ack {item.id})")
    if notice.more:
        lines += ["", f"and {notice.more} more. `ns7 alert list` shows what is wrong now."]
    return "\n".join(lines) + "\n"


def host_name(name: str) -> str:
    """The name as it may stand in an address."""
    return "".join(each for each in name if each.isascii() and (each.isalnum() or each in ".-_")).strip(".") or "ns7"


def message_id(number: int, node: str) -> str:
    """The same for the same notice, whenever and however often it is sent."""
    return f"<{number}.ns7@{host_name(node)}>"


def encoded(text: str) -> str:
    """The text as a header's value; what is not plain as words of RFC 2047, each of whole characters."""
    if text.isascii() and "=?" not in text:
        return text
    pieces = [b""]
    for each in (character.encode() for character in text):
        if len(pieces[-1]) + len(each) > 45:            # a word has at most 75 characters
            pieces.append(b"")
        pieces[-1] += each
    return "\r\n ".join(f"=?utf-8?b?{b64encode(piece).decode()}?=" for piece in pieces)


def mail(notice: Notice, node: str, sender: str, recipients: tuple[str, ...], dropped: int) -> bytes:
    """The message in 7 bits, lines ended by CR LF. Addresses are those of the configuration, checked there.

    By hand, as Python 3.11's email package folds headers wrongly: spaces too many, and with some texts it never ends.
    """
    body = text(notice, node, dropped)
    plain = body.isascii()
    earlier = sorted({item.first for item in notice.items} - {0, notice.number})[-10:]
    headers = {
        "From": sender,
        "To": ",\r\n ".join(recipients),
        "Subject": encoded(f"[ns7] {title(notice, node)}"),
        "Date": format_datetime(datetime.fromtimestamp(notice.time).astimezone()),
        "Message-ID": message_id(notice.number, node),
        "References": "\r\n ".join(message_id(number, node) for number in earlier),
        "Auto-Submitted": "auto-generated",             # RFC 3834: no vacation replies
        "MIME-Version": "1.0",
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Transfer-Encoding": "7bit" if plain else "base64",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value)
    content = body.encode() if plain else encodebytes(body.encode())
    return f"{head}\r\n".encode() + content.replace(b"\n", b"\r\n")


def facts(item: Item) -> dict[str, Any]:
    """An item as plain data for a command."""
    return {name: clean(value) if isinstance(value, str) else value for name, value in item._asdict().items()
            if name != "first"} | {"duration": max(0.0, item.time - item.since)}


def environment(notice: Notice, node: str, dropped: int) -> dict[str, str]:
    """NS7_ALERT_* for a command: the notice, and the facts of its first item."""
    known = {"node": clean(node), "number": notice.number, "count": len(notice.items) + notice.more,
             "title": title(notice, node), "text": text(notice, node, dropped)[:MOST_TEXT], **facts(notice.items[0])}
    return {f"NS7_ALERT_{name.upper()}": str(round(value) if isinstance(value, float) else value)
            for name, value in known.items()}


def lines(notice: Notice) -> bytes:
    """All items for a command's standard input: one JSON object per line."""
    return b"".join(json.dumps(facts(item)).encode() + b"\n" for item in notice.items)
