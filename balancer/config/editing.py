"""Writes live changes of a server into the configuration file; everything else in it stays as it is. Runs in commands.

Comments, order and spacing are the operator's. A comment right above a server, without an empty line between, is
that server's and goes with it; any other one stays. Whatever the editing did, the result is read again and must be
the old file with just these changes, or nothing is written. Alone to import tomlkit.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT, Comment, InlineTable, Item, Table, Whitespace

from balancer.config.loading import load
from balancer.durable import replacing
from balancer.errors import ControlError
from balancer.process.live import Change, find_server, find_service, overlaid

Body = list[Any]            # of a tomlkit table: pairs (key or None, item)


def save(path: str, node: str | None, changes: Sequence[Change]) -> None:
    """Put the changes of one server into the file; ConfigError when the file is wrong already, ControlError when it
    cannot be written, or not without altering anything else. Two who save at once do so one after the other."""
    file = Path(path)
    with _alone(file.parent):
        before = load(file, node)
        expected, idle = overlaid(before.document, changes)
        if idle:
            raise ControlError(f"{path} is not written: {'; '.join(idle.values())}")
        try:
            with file.open(encoding="utf-8", newline="") as stream:
                text = edited(stream.read(), before.node, changes)
            status = file.stat()
            with replacing(file) as part:
                os.fchmod(part.fileno(), status.st_mode & 0o7777)
                os.fchown(part.fileno(), status.st_uid, status.st_gid)
                part.write(text.encode())
                part.flush()
                if load(part.name, node).document != expected:
                    raise ControlError(f"{path} is not written: it cannot be edited without altering anything else")
        except (OSError, TOMLKitError) as error:
            raise ControlError(f"{path} is not written: {error}") from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One at a time. The folder is what is locked: the file itself is replaced."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ControlError(f"{folder}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def edited(text: str, node: str, changes: Sequence[Change]) -> str:
    """The text of a right configuration file with the changes in it."""
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    document: Any = tomlkit.parse(text.removeprefix("\ufeff"))
    own: Any = next((table for key, table in document.get("nodes", {}).items() if key.lower() == node), {})
    for change in changes:
        service: Any = find_service(own if "service" in own else document, change.service)
        servers: Any = service["server"]
        place = find_server(service, change.server)
        if change.what != "server":
            _set(servers[place], change.what, change.value)
        elif change.value is None:
            if place is not None:
                _remove(service, servers, place)
        elif place is None:
            _append(servers, change.value)
        else:
            for key in [key for key in servers[place] if key not in change.value]:
                del servers[place][key]
            for key, value in change.value.items():
                _set(servers[place], key, value)
    return mark + tomlkit.dumps(document)


def _set(table: Table | InlineTable, key: str, value: Any) -> None:
    if key in table or isinstance(table, InlineTable):
        table[key] = value
        return
    # At the end of its lines, before the comments that belong to what follows.
    tail = _cut_tail(table.value.body)
    table[key] = value
    table.value.body.extend(tail)


def _append(servers: Any, value: dict[str, Any]) -> None:
    if not isinstance(servers, AoT):
        inline = tomlkit.inline_table()
        inline.update(value)
        servers.append(inline)
        return
    last = servers[-1].value.body
    tail = _cut_tail(last)
    last.append((None, Whitespace("\n")))
    table = tomlkit.table()
    table.update(value)
    servers.append(table)
    servers[-1].value.body.extend(tail)


def _remove(service: Any, servers: Any, place: int) -> None:
    if not isinstance(servers, AoT):
        del servers[place]
        return
    # The comment right above stands at the end of whatever is written before it.
    if place:
        _cut_own_comment(servers[place - 1].value.body)
    else:
        body = service.value.body
        above = body[:next(index for index, (key, _) in enumerate(body) if key is not None and key.key == "server")]
        while above and isinstance(above[-1][1], Table):
            body = above = above[-1][1].value.body
        _blank_own_comment(body, len(above))
    tail = _cut_tail(servers[place].value.body)
    gone = place == len(servers) - 1
    del servers[place]
    # What follows an empty line is not its own: it goes to the next server's head, or the end of the one before.
    if gone:
        _cut_blank_end(servers[place - 1].value.body)
        servers[place - 1].value.body.extend(tail)
    else:
        while tail and isinstance(tail[0][1], Whitespace):
            tail.pop(0)
        trivia = servers[place].trivia
        trivia.indent = "".join(item.as_string() for _, item in tail) + trivia.indent


def _is_blank(item: Item) -> bool:
    return isinstance(item, Whitespace) and "\n" in item.as_string()


def _cut_tail(body: Body) -> Body:
    """Take off what follows the last setting, from the first empty line on."""
    last = max((index for index, (key, _) in enumerate(body) if key is not None), default=-1)
    begin = next((index for index in range(last + 1, len(body)) if _is_blank(body[index][1])), len(body))
    tail = body[begin:]
    del body[begin:]
    return tail


def _own_comment(body: Body, end: int) -> int:
    """Where the lines of comment that end at `end` begin."""
    while end and isinstance(body[end - 1][1], Comment):
        end -= 1
    return end


def _cut_own_comment(body: Body) -> None:
    begin = _own_comment(body, len(body))
    if begin and _is_blank(body[begin - 1][1]):         # else it is the end of the server above
        del body[begin:]


def _blank_own_comment(body: Body, end: int) -> None:
    begin = _own_comment(body, end)
    if begin and _is_blank(body[begin - 1][1]):
        for index in range(begin, end):                 # the places of others must stay as they are
            body[index] = (None, Whitespace(""))


def _cut_blank_end(body: Body) -> None:
    while body and _is_blank(body[-1][1]):
        body.pop()
