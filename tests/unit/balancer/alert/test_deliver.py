"""Delivery to a real mail server and to real commands, and what becomes of refusals and silence."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from balancer.alert import deliver
from balancer.alert.deliver import Away, Courier, Refused, run_command, send_mail
from balancer.alert.group import CHANGE, PROBLEM, RECOVERY, Item, Notice
from balancer.config.model import Alerts
from tests.helpers import processes
from tests.helpers.mail import MailServer, certificate
from tests.helpers.waiting import PATIENCE, until, wait_for

pytestmark = pytest.mark.usefixtures("no_loose_ends")

NOTICE = Notice(1_700_000_000_000, 1.7e9, (
    Item(PROBLEM, "server", "ns7/ns7c1", "up", "down", "no answer 응답 없음", 1.7e9, 1.7e9, 17),
    Item(RECOVERY, "server", "ns7/ns7c2", "down", "up", "answers", 1.7e9, 1.7e9 - 90, 11, 99)))


def numbered(number: int) -> Notice:
    return Notice(number, 1.7e9, (Item(CHANGE, "test", f"number {number}", "", "x", "", 1.7e9, 1.7e9),))


def alerts(server: MailServer | None = None, **settings: Any) -> Alerts:
    smtp = {} if server is None else {"smtp": server.address}
    return Alerts.model_validate({"mail_to": ["a@example.com", "b@example.com"], "mail_from": "ns7@example.com", **smtp,
                                  **settings})


async def send(config: Alerts, recipient: str = "a@example.com", notice: Notice = NOTICE) -> None:
    await send_mail(config, "ns7c0", recipient, notice, 0)


async def test_mail_arrives() -> None:
    with MailServer() as server:
        await send(alerts(server))
    ((recipient, message),) = server.accepted
    assert recipient == "a@example.com"
    assert message["To"] == "a@example.com, b@example.com"
    assert message["Message-ID"] == "<1700000000000.ns7@ns7c0>"
    assert "응답 없음" in message.get_content()


async def test_starttls_with_login(tmp_path: Path) -> None:
    authority, context = certificate(tmp_path)
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    with MailServer(tls=context, login=("ns7", "correct horse")) as server:
        login = {"smtp_user": "ns7", "smtp_password_file": str(password)}
        await send(alerts(server, smtp_tls="starttls", smtp_ca_file=str(authority), **login))
        assert server.encrypted == [True]
        assert server.logins == ["ns7"]
        with pytest.raises(Away, match="certificate verify failed"):
            await send(alerts(server, smtp_tls="starttls", **login))
        with pytest.raises(Away, match="530"):
            await send(alerts(server, smtp_tls="none"))
        with pytest.raises(Away, match="530"):
            await send(alerts(server, smtp_tls="starttls", smtp_ca_file=str(authority)))
        password.write_text("wrong")
        with pytest.raises(Away, match="535"):
            await send(alerts(server, smtp_tls="starttls", smtp_ca_file=str(authority), **login))
        password.unlink()
        with pytest.raises(Away, match=f"No such file.*{password}"):
            await send(alerts(server, smtp_tls="starttls", smtp_ca_file=str(authority), **login))
        assert len(server.accepted) == 1


async def test_tls_from_the_first_byte(tmp_path: Path) -> None:
    authority, context = certificate(tmp_path)
    with MailServer(tls=context, implicit=True) as server:
        await send(alerts(server, smtp_tls="tls", smtp_ca_file=str(authority)))
    assert len(server.accepted) == 1


async def test_no_mail_without_starttls() -> None:
    with MailServer() as server, pytest.raises(Away, match="STARTTLS"):
        await send(alerts(server, smtp_tls="starttls"))
    assert server.accepted == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("550 no such user", Refused), ("554 5.7.1 spam", Refused), ("450 greylisted", Away), ("452 full", Away),
     ("530 authenticate first", Away)],
)
async def test_refusals(answer: str, expected: type[Exception]) -> None:
    with MailServer(on_recipient=lambda _: answer) as server, pytest.raises(expected, match=answer):
        await send(alerts(server))
    with MailServer(on_data=lambda _: answer) as server, pytest.raises(expected, match=answer):
        await send(alerts(server))
    assert server.accepted == []


async def test_nobody_listens() -> None:
    with pytest.raises(Away):
        await send(alerts(MailServer()))


@pytest.mark.parametrize("greeting", [b"", b"421 too busy\r\n", b"554 go away\r\n", b"nonsense\r\n", b"220 x\r\n",
                                      b"220 \xff\xfe\r\n" * 3, b"2" * 100_000])
async def test_a_strange_server(greeting: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it says, or if it says nothing: tried again later, after a bounded time."""
    monkeypatch.setattr(deliver, "STEP_PATIENCE", 0.3)
    monkeypatch.setattr(deliver, "MAIL_PATIENCE", 2.0)
    server = MailServer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", server.port):
        with pytest.raises(Away):
            async with asyncio.timeout(PATIENCE):
                await send(alerts(server))


# Commands


def script(folder: Path, text: str) -> str:
    path = folder / "hook"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


async def run(command: list[str], timeout: str = "10s", notice: Notice = NOTICE) -> None:
    await run_command(alerts(command=command, command_timeout=timeout), "ns7c0", notice, 0)


async def test_command_has_the_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "not for it")
    out = tmp_path / "out"
    await run([script(tmp_path, f"env >{out}.env; cat >{out}.in; printf '%s|' \"$@\" >{out}.args"), "a b", "$HOME", ""])
    env = (tmp_path / "out.env").read_text()
    for fact in ("NODE=ns7c0", "WHAT=problem", "KIND=server", "SUBJECT=ns7/ns7c1", "BEFORE=up", "AFTER=down",
                 "REASON=no answer 응답 없음", "ID=17", "TIME=1700000000", "SINCE=1700000000", "DURATION=0", "COUNT=2",
                 "NUMBER=1700000000000", "TITLE=ns7c0: 1 problem, 1 recovery: server ns7/ns7c1 is down"):
        assert f"NS7_ALERT_{fact}" in env
    assert "SECRET" not in env
    rows = [json.loads(line) for line in (tmp_path / "out.in").read_text().splitlines()]
    assert [(row["what"], row["subject"], row["duration"]) for row in rows] == [
        ("problem", "ns7/ns7c1", 0), ("recovery", "ns7/ns7c2", 90)]
    assert (tmp_path / "out.args").read_text() == "a b|$HOME||", "no shell between"


async def test_command_that_hangs_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    hook = script(tmp_path, f"trap '' TERM; sleep 1000 & echo $! $$ >{pids}.new; mv {pids}.new {pids}; wait")
    with pytest.raises(Refused, match="killed after 5 s"):
        await run([hook], "5s")
    for pid in map(int, pids.read_text().split()):
        wait_for("killed", lambda pid=pid: not processes.alive(pid))


async def test_command_killed_with_its_courier(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    task = asyncio.create_task(run([script(tmp_path, f"echo $$ >{pids}.new; mv {pids}.new {pids}; exec sleep 1000")]))
    await until("started", pids.exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    pid = int(pids.read_text())
    wait_for("killed", lambda: not processes.alive(pid))


async def test_command_may_leave_something_in_the_background(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    begin = time.monotonic()
    await run([script(tmp_path, f"sleep 1000 & echo $! >{pid}")], "60s")
    assert time.monotonic() - begin < 30
    child = int(pid.read_text())
    assert processes.alive(child)
    os.kill(child, 9)


async def test_command_that_talks_without_end(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="killed"):
        await run([script(tmp_path, "exec yes")], "1s")
    with pytest.raises(Refused, match="exit code 3: y y y") as told:
        await run([script(tmp_path, "yes | head -c 3000000; exit 3")])
    assert len(str(told.value)) <= 200


async def test_command_that_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="No such file"):
        await run([str(tmp_path / "none")])
    path = Path(script(tmp_path, "true"))
    path.chmod(stat.S_IRUSR)
    with pytest.raises(Refused, match="Permission denied"):
        await run([str(path)])


async def test_command_takes_a_notice_of_any_size(tmp_path: Path) -> None:
    items = tuple(Item(PROBLEM, "k" * 40, "s" * 200, "b", "a", "웹" * 500, 1.7e9, 1.7e9, n) for n in range(200))
    await run([script(tmp_path, f"wc -l >{tmp_path}/lines")], notice=Notice(1, 1.7e9, items))
    assert (tmp_path / "lines").read_text().split() == ["200"]
    await run([script(tmp_path, "exec <&-")], notice=Notice(1, 1.7e9, items))


# The courier


class Post:
    """A send function that is scripted: each call takes the next outcome, "ok" when there is none."""

    def __init__(self, *outcomes: Exception | None) -> None:
        self.outcomes = list(outcomes)
        self.sent: list[tuple[int, int]] = []

    async def __call__(self, notice: Notice, dropped: int) -> None:
        await asyncio.sleep(0)
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if outcome is not None:
            raise outcome
        self.sent.append((notice.number, dropped))


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliver, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(deliver, "MOST_WAIT", 0.02)


async def deliver_all(courier: Courier) -> None:
    task = asyncio.create_task(courier.run())
    await until("delivered", lambda: not len(courier.spool))
    courier.stop()
    async with asyncio.timeout(PATIENCE):
        await task


async def test_courier_keeps_the_order(tmp_path: Path) -> None:
    log: list[str] = []
    post = Post(None, Away("gone"), Away("gone"), Away("gone"), None, Refused("550 no"), Away("gone"))
    courier = Courier("a@example.com", tmp_path, post, log.append, lambda: None)
    for number in range(1, 6):
        courier.put(numbered(number))
    await deliver_all(courier)
    assert [number for number, _ in post.sent] == [1, 2, 4, 5]
    assert courier.counts == {"sent": 4, "deferred": 4, "refused": 1}
    assert courier.error == ""
    assert [line.split(":")[1].strip() for line in log] == [
        "cannot be told now, kept and tried again", "can be told again, 3 more waiting", "refused for good",
        "cannot be told now, kept and tried again", "can be told again, 1 more waiting"], "one line per change"
    assert [path.name for path in (tmp_path / "aside").iterdir()] == ["0000000000000003.info"]


async def test_courier_tells_what_was_dropped_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balancer.alert.spool.MOST_MESSAGES", 2)
    post = Post(Away("gone"))
    courier = Courier("x", tmp_path, post, lambda _: None, lambda: None)
    for number in range(1, 6):
        courier.put(numbered(number))
    await deliver_all(courier)
    assert post.sent == [(4, 3), (5, 0)]


async def test_courier_sets_aside_what_it_cannot_read(tmp_path: Path) -> None:
    post = Post()
    courier = Courier("x", tmp_path, post, lambda _: None, lambda: None)
    courier.spool.put(1, b'{"items": "of another version"}', False)
    courier.put(numbered(2))
    await deliver_all(courier)
    assert [number for number, _ in post.sent] == [2]
    assert courier.spool.damaged == 1


async def test_courier_stops_though_nobody_takes_it(tmp_path: Path) -> None:
    courier = Courier("x", tmp_path, Post(*[Away("gone")] * 1000), lambda _: None, lambda: None)
    courier.put(numbered(1))
    task = asyncio.create_task(courier.run())
    await asyncio.sleep(0.05)
    courier.stop()
    async with asyncio.timeout(PATIENCE):
        await task
    assert len(courier.spool) == 1


async def test_retry_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliver, "FIRST_WAIT", 1000.0)
    monkeypatch.setattr(deliver, "MOST_WAIT", 1000.0)
    post = Post(Away("gone"))
    courier = Courier("x", tmp_path, post, lambda _: None, lambda: None)
    courier.put(numbered(1))
    task = asyncio.create_task(courier.run())
    await until("tried", lambda: courier.error)
    courier.put(numbered(2))
    await asyncio.sleep(0.05)
    assert post.sent == [], "news are no reason to try again"
    courier.retry()
    await until("told", lambda: len(post.sent) == 2)
    courier.stop()
    await task


def test_the_name_of_the_host_is_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert deliver.sender(Alerts()) == f"ns7@{socket.gethostname()}"
    assert deliver.sender(alerts()) == "ns7@example.com"
