"""The whole process: `main(host)` with a channel in memory, a real mail server, a real command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from balancer.alert import deliver, runner
from balancer.component import Event, Server, Service
from balancer.config.model import Alerts
from balancer.errors import ControlError
from tests.helpers.link import MemoryLink, host
from tests.helpers.mail import MailServer
from tests.helpers.waiting import PATIENCE, until

pytestmark = pytest.mark.usefixtures("no_loose_ends")

RECIPIENT = "a@example.com"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliver, "FIRST_WAIT", 0.05)
    monkeypatch.setattr(deliver, "MOST_WAIT", 0.2)


def alerts(server: MailServer | None = None, **settings: Any) -> Alerts:
    mail = {} if server is None else {"mail_to": [RECIPIENT], "smtp": server.address}
    return Alerts.model_validate({"mail_from": "ns7@example.com", "group": "100ms", **mail, **settings})


SERVICES = (Service("dns", (), tuple(Server(name, "", 1, "") for name in "abc")),)


class Process:
    """A running alert process, and the supervisor's side of its channel."""

    ids = 0

    def __init__(self, config: Alerts, state: Path, **options: Any) -> None:
        self.link, self.log = MemoryLink(), list[str]()
        self.task = asyncio.create_task(runner.main(host(self.link, config, state, log=self.log.append, **options)))

    def tell(self, after: str, subject: str = "dns/a", before: str = "?", kind: str = "server",
             reason: str = "why") -> Event:
        Process.ids += 1
        event = Event(time.time(), kind, subject, before, after, reason, f"{Process.ids:020}")
        self.link.tell("event", event)
        return event

    def configure(self, config: Alerts, services: tuple[Service, ...] = SERVICES) -> None:
        self.link.tell("config", config, services)

    async def stop(self) -> None:
        self.link.tell("stop")
        async with asyncio.timeout(PATIENCE):
            await self.task

    async def kill(self) -> None:
        """As SIGKILL would: whatever is under way is not finished."""
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


@contextlib.asynccontextmanager
async def running(config: Alerts, state: Path, **options: Any) -> AsyncIterator[Process]:
    process = Process(config, state, **{"services": SERVICES, **options})
    try:
        await asyncio.sleep(0)
        await until("started", lambda: process.link.snapshot or process.task.done())
        yield process
        await process.stop()
    finally:
        await process.kill()


async def test_told_and_recovered(tmp_path: Path) -> None:
    with MailServer() as server:
        async with running(alerts(server), tmp_path) as process:
            process.tell("down", "dns/a", "up")
            process.tell("down", "dns/b", "up")
            await until("mail", lambda: len(server.accepted) == 1)
            assert [alert["subject"] for alert in process.link.snapshot["open"]] == ["dns/a", "dns/b"]
            process.tell("up", "dns/a", "down")
            process.tell("up", "dns/b", "down")
            await until("recovery", lambda: len(server.accepted) == 2)
            await until("counted", lambda: process.link.snapshot["counters"] == {"mails_sent": 2})
            assert process.link.snapshot["open"] == []
    first, second = (message for _, message in server.accepted)
    assert first["Subject"] == "[ns7] ns7c0: 2 problems: server dns/a is down; server dns/b is down"
    assert second["Subject"].startswith("[ns7] ns7c0: 2 recoveries: server dns/a is up, was down for ")
    assert second["References"] == first["Message-ID"]
    assert any("2 problems" in line for line in process.log), "the journal has it too"


async def test_mail_server_down_across_three_transitions(tmp_path: Path) -> None:
    """All are told once, in order, after it returns; meanwhile nothing is blocked, not even by a restart."""
    ran = tmp_path / "ran"
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\necho \"$NS7_ALERT_SUBJECT $NS7_ALERT_AFTER\" >>{ran}\n")
    hook.chmod(0o755)
    server = MailServer()
    config = alerts(server, command=[str(hook)])
    state = tmp_path / "state"
    state.mkdir()
    async with running(config, state) as process:
        process.tell("down")
        await until("spooled", lambda: waiting(process, RECIPIENT) == 1)
        process.tell("up")
        await until("spooled", lambda: waiting(process, RECIPIENT) == 2)
        assert (await process.link.ask("list"))["queues"][0]["error"]
        await until("the command does not wait", lambda: ran.exists() and len(ran.read_text().splitlines()) == 2)
    async with running(config, state) as process:
        process.tell("down", "dns/b")
        await until("spooled", lambda: waiting(process, RECIPIENT) == 3)
        with server:
            await until("told", lambda: len(server.accepted) >= 3)
            await until("all gone", lambda: waiting(process, RECIPIENT) == 0)
            await asyncio.sleep(0.3)
    assert [subject.partition(" is ")[2].split(",")[0] for subject in server.subjects()] == ["down", "up", "down"]
    assert len({message["Message-ID"] for _, message in server.accepted}) == 3
    assert ran.read_text().splitlines() == ["dns/a down", "dns/a up", "dns/b down"]


def waiting(process: Process, target: str) -> int:
    return next(int(queue["waiting"]) for queue in process.link.snapshot["queues"] if queue["target"] == target)


async def test_one_recipient_does_not_hold_up_the_other(tmp_path: Path) -> None:
    greylist = ["slow@example.com"]

    def answer(address: str) -> str:
        return "450 come again" if address in greylist else "550 unknown" if address == "gone@example.com" else "250 OK"

    with MailServer(on_recipient=answer) as server:
        config = alerts(server, mail_to=["slow@example.com", "gone@example.com", "fast@example.com"])
        async with running(config, tmp_path) as process:
            for number, state in enumerate(("down", "up", "down"), 1):
                process.tell(state)
                await until("told", lambda number=number: len(server.subjects("fast@example.com")) == number)
            assert server.subjects("slow@example.com") == []
            greylist.clear()
            await until("told", lambda: len(server.subjects("slow@example.com")) == 3)
            await until("counted", lambda: process.link.snapshot["counters"].get("mails_refused") == 3)
    assert server.subjects("slow@example.com") == server.subjects("fast@example.com")


def replay(process: Process, snapshot: Any, events: list[Event]) -> None:
    """As the supervisor does: what the predecessor did not say it has."""
    for event in events:
        if event.id > snapshot.get("last_event", ""):
            process.link.tell("event", event)


async def successor(config: Alerts, state: Path, snapshot: Any, events: list[Event]) -> Process:
    process = Process(config, state, snapshot=snapshot, services=SERVICES)
    await asyncio.sleep(0)
    await until("started", lambda: process.link.snapshot)
    replay(process, snapshot, events)
    return process


async def test_killed_at_any_time(tmp_path: Path) -> None:
    """Each transition is told; what is told twice, as the end came between, has the same Message-ID."""
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    with MailServer() as server:
        config = alerts(server, group="10ms", flap_changes=1000)
        snapshot: Any = {}
        events: list[Event] = []
        for _ in range(20):
            process = await successor(config, tmp_path, snapshot, events)
            for _ in range(3):
                after = "up" if events and events[-1].after == "down" else "down"
                events.append(process.tell(after, reason=f"transition {len(events)}."))
                await asyncio.sleep(dice.random() * 0.03)
            await process.kill()
            snapshot = process.link.snapshot
        async with running(config, tmp_path, snapshot=snapshot) as process:
            replay(process, snapshot, events)
            await asyncio.sleep(0.1)
            await until("all told", lambda: waiting(process, RECIPIENT) == 0)
            counters = process.link.snapshot["counters"]
    by_id: dict[str, str] = {}
    told: list[str] = []
    for _, message in server.accepted:
        body = message.get_content().partition("\n")[2]
        assert by_id.setdefault(str(message["Message-ID"]), body) == body, f"seed {seed}"
    for body in by_id.values():
        told += [line.split()[-1] for line in body.splitlines() if "transition" in line]
    assert told == [f"{number}." for number in range(len(events))], f"seed {seed}"
    assert counters["mails_sent"] >= len(by_id) - 20, "totals go on from the predecessor"


async def test_alerts_and_acknowledgements_survive(tmp_path: Path) -> None:
    async with running(alerts(), tmp_path) as process:
        process.tell("down")
        process.tell("down", "dns/b")
        assert [alert["subject"] for alert in await process.link.ask("ack", alert="dns/b")] == ["dns/b"]
        with pytest.raises(ControlError, match="dns/c"):
            await process.link.ask("ack", alert="dns/c")
    async with running(alerts(), tmp_path) as process:
        answer = await process.link.ask("list")
        assert [(alert["subject"], alert["state"], alert["acked"]) for alert in answer["open"]] == [
            ("dns/a", "down", False), ("dns/b", "down", True)]
        assert answer["open_total"] == 2


async def test_what_ended_with_the_run_or_the_configuration(tmp_path: Path) -> None:
    with MailServer() as server:
        async with running(alerts(server), tmp_path) as process:
            process.tell("down", "dns/a")
            process.tell("down", "dns/b")
            process.tell("restarting", "0", kind="worker")
            await until("told", lambda: len(server.accepted) == 1)
            snapshot = process.link.snapshot
        # a successor in the same run keeps all of it
        async with running(alerts(server), tmp_path, snapshot=snapshot) as process:
            assert process.link.snapshot["open_total"] == 3
        # another run has other workers
        async with running(alerts(server), tmp_path) as process:
            await until("told", lambda: len(server.accepted) == 2)
            assert server.subjects()[1].startswith("[ns7] ns7c0: worker 0 is gone, was restarting for ")
            assert [alert["subject"] for alert in process.link.snapshot["open"]] == ["dns/a", "dns/b"]
            process.configure(alerts(server), (Service("dns", (), (Server("b", "", 1, ""),)),))
            await until("told", lambda: len(server.accepted) == 3)
            assert server.subjects()[2].startswith("[ns7] ns7c0: server dns/a is gone, was down for ")
            assert [alert["subject"] for alert in process.link.snapshot["open"]] == ["dns/b"]


async def test_stop_does_not_lose_the_last_words(tmp_path: Path) -> None:
    with MailServer() as server:
        async with running(alerts(server, group="1m"), tmp_path) as process:
            process.tell("down")
        assert server.subjects() == ["[ns7] ns7c0: server dns/a is down"]
    async with running(alerts(server, group="1m"), tmp_path) as process:
        process.tell("up")
    with server:
        async with running(alerts(server), tmp_path):
            await until("told", lambda: len(server.accepted) == 2)


async def test_reload(tmp_path: Path) -> None:
    with MailServer() as first, MailServer() as second:
        async with running(alerts(), tmp_path) as process:
            process.tell("down")
            await until("logged", lambda: any("dns/a is down" in line for line in process.log))
            assert process.link.snapshot["queues"] == []
            process.configure(alerts(first))
            process.tell("up")
            await until("told", lambda: len(first.accepted) == 1)
            process.configure(alerts(second))
            process.tell("down")
            await until("told", lambda: process.link.snapshot["counters"].get("mails_sent") == 2)
            second.on_recipient = lambda _: "450 not now"
            process.tell("up")
            await until("spooled", lambda: waiting(process, RECIPIENT) == 1)
            process.configure(alerts(second, mail_to=["b@example.com"]))
            assert not (tmp_path / "spool" / RECIPIENT).exists()
            second.on_recipient = lambda who: "450 not now" if who == RECIPIENT else "250 OK"
            process.tell("down")
            await until("told", lambda: len(second.subjects("b@example.com")) == 1)
            await until("counted", lambda: process.link.snapshot["counters"].get("mails_sent") == 3)
            assert first.subjects() + second.subjects(RECIPIENT) == [
                first.subjects()[0], "[ns7] ns7c0: server dns/a is down"]


async def test_reload_reaches_the_right_server_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliver, "FIRST_WAIT", 1000.0)
    with MailServer() as server:
        async with running(alerts(MailServer(), mail_to=[RECIPIENT]), tmp_path) as process:
            process.configure(alerts(MailServer(), mail_to=[RECIPIENT], smtp="127.0.0.1:1"))
            process.tell("down")
            await until("tried", lambda: process.link.snapshot["queues"][0]["error"])
            process.configure(alerts(server))
            await until("told", lambda: len(server.accepted) == 1)


async def test_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(alerts(), tmp_path) as process:
        with pytest.raises(ControlError, match="neither mail_to nor command"):
            await process.link.ask("test")
    with MailServer(on_recipient=lambda address: "250 OK" if address == RECIPIENT else "550 unknown") as server:
        config = alerts(server, mail_to=[RECIPIENT, "typo@example.com"], command=["/nonexistent"])
        async with running(config, tmp_path) as process:
            assert await process.link.ask("test") == [
                {"target": RECIPIENT, "ok": True, "error": ""},
                {"target": "typo@example.com", "ok": False, "error": "550 unknown"},
                {"target": "command", "ok": False, "error": "/nonexistent: No such file or directory"}]
            assert server.subjects() == ["[ns7] ns7c0: this is a test"]
        monkeypatch.setattr(runner, "TEST_PATIENCE", 0.2)
        async with running(alerts(server, command=["/bin/sleep", "20"]), tmp_path) as process:
            assert [outcome["error"] for outcome in await process.link.ask("test")] == ["", "no outcome after 0.2 s"]


async def test_a_flood_stays_within_bounds(tmp_path: Path) -> None:
    with MailServer() as server:
        async with running(alerts(server, flap_period="1s"), tmp_path, services=()) as process:
            for number in range(10_000):
                process.tell("down", f"zone{number} {'웹' * 100}", reason="웹" * 500, kind="zone")
            await until("told", lambda: server.accepted)
            await process.link.ask("list")
            assert process.link.snapshot["open_total"] == 5000
    assert sum(len(raw) for raw in server.raw) < 2_000_000


async def test_damaged_state_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "alerts").write_bytes(b"00000000\n{")
    spool = tmp_path / "spool" / RECIPIENT
    spool.mkdir(parents=True)
    (spool / "0000000000000001.alert").write_bytes(b"half a mess")
    with MailServer() as server:
        async with running(alerts(server), tmp_path) as process:
            assert any("are lost" in line for line in process.log)
            process.tell("down")
            await until("told", lambda: len(server.accepted) == 1)
            await until("counted", lambda: process.link.snapshot["counters"].get("damaged") == 1)


async def test_state_that_cannot_be_written(tmp_path: Path) -> None:
    state = tmp_path / "file"
    state.write_text("in the way")
    with MailServer() as server:
        async with running(alerts(server), state) as process:
            process.tell("down")
            process.tell("up")
            await until("told", lambda: len(server.accepted) == 1)
            process.tell("down")
            await until("told", lambda: len(server.accepted) == 2)
            assert sum("cannot be saved" in line for line in process.log) == 1


async def test_state_of_before_is_read(tmp_path: Path) -> None:
    """What a version writes, the next one reads: a change of the format must mean to."""
    from balancer.alert.spool import write

    plain = {"last_event": "", "last_id": 17, "number": 1_700_000_000_000, "more": 0, "batch": [], "alerts": [
        {"kind": "server", "subject": "dns/a", "state": "down", "since": 1.7e9, "reason": "no answer", "id": 17,
         "first": 1_700_000_000_000, "open": True, "acked": True, "flapping": False, "changes": 0, "told": 60.0,
         "last": 60.0, "recent": [60.0]}]}
    write(tmp_path / "alerts", json.dumps(plain).encode())
    async with running(alerts(), tmp_path) as process:
        assert [alert["id"] for alert in process.link.snapshot["open"]] == [17]
