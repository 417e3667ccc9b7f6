"""The alert process: hears the events of this host and has them told. Runs in the alert process.

    events → Book (what is due) → one Spool per recipient (on disk) → Courier (SMTP, command)

In the state folder: `alerts`, the book, and `spool/`. The book is saved before a notice goes to the queues and again
after it, so that a notice that a crash made twice is the same message with the same number. The snapshot says up to
which event the book is saved: the supervisor tells a successor those after it again, and the book knows what it heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from balancer.alert import deliver, word
from balancer.alert.deliver import Courier
from balancer.alert.group import TEST, Alert, Book, Item, Limits, Notice, listing
from balancer.alert.spool import read, write
from balancer.component import STANDBY, WARNING, Event, Host, Service
from balancer.errors import ControlError

TEST_PATIENCE = 8.0         # less than the command waits for its answer
STOP_GRACE = 2.0            # for what can be delivered before the end
LISTED, PUBLISHED = 40_000, 200_000     # bytes of open alerts in an answer, in a snapshot
SUMMED = 5                  # open alerts in the summary
COMMAND = "command"
MAILS = {"sent": "mails_sent", "deferred": "mails_deferred", "refused": "mails_refused"}
RUNS = {"sent": "commands_run", "refused": "commands_failed"}
# What is said of these holds for one run of ns7; the next one begins anew.
OF_ONE_RUN = ("component", "config", "service", "upgrade", "worker")


async def main(host: Host) -> None:
    """Be the alert process until told to stop."""
    async with asyncio.TaskGroup() as tasks:
        await Runner(host, tasks).run()


class Runner:
    """The process: book, couriers, verbs."""

    def __init__(self, host: Host, tasks: asyncio.TaskGroup) -> None:
        self._host, self._tasks = host, tasks
        self._state = Path(host.state)
        self._config = host.config
        self._couriers: dict[str, tuple[Courier, asyncio.Task[None]]] = {}
        self._past = Counter[str](host.snapshot.get("counters", {}))    # counted by predecessors
        self._news = asyncio.Event()
        self._heard = self._stopping = self._unsaved = False
        self._book = self._load()
        if not host.snapshot:
            # Ids grow, but over a restart only if the clock does: none of another run's may make us deaf.
            self._book.last_event = ""
            self._end(lambda kind, _: kind in OF_ONE_RUN, "ns7 was started anew")
            self._book.doubt(host.clock())
        self._last_saved = self._book.last_event
        self._end_removed(host.services)
        self._apply()
        channel = host.channel
        channel.publish(self._snapshot(PUBLISHED))
        channel.on_standing(self._on_standing)
        channel.on_event(self._on_event)
        channel.on_config(self._on_config)
        channel.on_stop(self._on_stop)
        channel.serve("test", self._test)
        channel.serve("ack", self._ack, self._unacked)
        channel.serve("list", lambda _: self._snapshot(LISTED))

    async def run(self) -> None:
        """Tell what is due, whenever it is."""
        while not self._stopping:
            self._step()
            wake = self._book.wake()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if wake is None else max(0.0, wake - self._host.clock())):
                    await self._news.wait()
            self._news.clear()
        self._step(flush=True)
        for courier, _ in self._couriers.values():
            courier.stop()
        running = [task for _, task in self._couriers.values()]
        if running:
            await asyncio.wait(running, timeout=STOP_GRACE)
        for task in running:
            task.cancel()
        self._host.channel.publish(self._snapshot(PUBLISHED))

    def _step(self, flush: bool = False) -> None:
        changed = self._book.tick(self._host.clock(), time.time())
        if changed or self._heard:
            self._save()
        notice = self._book.take(self._host.clock(), time.time(), flush)
        if notice is not None:
            self._host.log(word.title(notice, self._host.node))
            for courier, _ in self._couriers.values():
                courier.put(notice)
            self._save()
        self._host.channel.publish(self._snapshot(PUBLISHED))

    # What the channel brings

    def _on_event(self, event: Event) -> None:
        self._book.hear(event, self._host.clock())
        self._heard = True
        self._news.set()

    def _on_standing(self, standing: str) -> None:
        self._book.set_silent(standing == STANDBY, self._host.clock())
        self._heard = True
        self._news.set()

    def _on_config(self, config: Any, services: tuple[Service, ...]) -> None:
        self._config = config
        self._book.limits = _limits(config)
        self._end_removed(services)
        self._apply()
        self._news.set()

    def _on_stop(self) -> None:
        self._stopping = True
        self._news.set()

    async def _test(self, _: Mapping[str, Any]) -> list[dict[str, Any]]:
        now = time.time()
        item = Item(TEST, "test", "alert", "", "", "asked for by `ns7 alert test`", now, now)
        notice = Notice(int(now * 1000), now, (item,))
        targets = self._targets()
        if not targets:
            raise ControlError("nobody to tell: [alerts] has neither mail_to nor command")
        errors = await asyncio.gather(*(_try(send(notice, 0)) for send in targets.values()))
        return [{"target": name, "ok": not error, "error": error} for name, error in zip(targets, errors, strict=True)]

    def _unacked(self) -> str:
        return f"{sum(not alert.acked for alert in self._book.open())} alerts to be told again"

    def _ack(self, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        which = str(arguments.get("alert", ""))
        found = self._book.ack(which)
        if not found:
            raise ControlError(f"no open alert has the id or subject {json.dumps(which[:200])}")
        self._heard = True
        self._news.set()
        return listing(found, LISTED)

    # Who is told

    def _targets(self) -> dict[str, Callable[[Notice, int], Awaitable[None]]]:
        node = self._host.node
        targets: dict[str, Callable[[Notice, int], Awaitable[None]]] = {
            address: functools.partial(deliver.send_mail, self._config, node, address)
            for address in self._config.mail_to}
        if self._config.command:
            targets[COMMAND] = functools.partial(deliver.run_command, self._config, node)
        return targets

    def _apply(self) -> None:
        """Couriers as the configuration wants them; what waited for somebody who is not told any more is dropped."""
        targets, spool = self._targets(), self._state / "spool"
        for name in [name for name in self._couriers if name not in targets]:
            courier, task = self._couriers.pop(name)
            task.cancel()
            self._past += self._count(courier)
        for folder in spool.glob("*"):
            if folder.name not in targets:
                shutil.rmtree(folder, ignore_errors=True)
                self._host.log(f"{folder.name}: not told any more, its queue is dropped")
        for name, send in targets.items():
            if name in self._couriers:
                self._couriers[name][0].send = send
                self._couriers[name][0].retry()
            else:
                courier = Courier(name, spool / name, send, self._host.log, self._news.set)
                self._couriers[name] = courier, self._tasks.create_task(courier.run())

    # What is kept and shown

    def _load(self) -> Book:
        limits, file = _limits(self._config), self._state / "alerts"
        try:
            return Book.load(limits, json.loads(read(file)), self._host.clock())
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            self._host.log(f"{WARNING}the open alerts of before are lost: {error}")
        return Book(limits)

    def _save(self) -> None:
        try:
            write(self._state / "alerts", json.dumps(self._book.export(self._host.clock())).encode())
        except OSError as error:
            if not self._unsaved:
                self._host.log(f"{WARNING}alerts cannot be saved, they would not survive a restart: {error}")
            self._unsaved = True
        else:
            self._heard = self._unsaved = False
            self._last_saved = self._book.last_event

    def _end_removed(self, services: tuple[Service, ...]) -> None:
        known = {f"{service.name}/{server.name}" for service in services for server in service.servers}
        self._end(lambda kind, subject: kind == "server" and subject not in known, "no longer configured")

    def _end(self, ended: Callable[[str, str], bool], reason: str) -> None:
        for alert in self._book.open():
            if ended(alert.kind, alert.subject):
                self._on_event(Event(time.time(), alert.kind, alert.subject, alert.state, "gone", reason))

    def _count(self, courier: Courier) -> Counter[str]:
        names = RUNS if courier.name == COMMAND else MAILS
        counts = Counter({names[what]: count for what, count in courier.counts.items()})
        return counts + Counter(dropped=courier.spool.dropped_total, damaged=courier.spool.damaged)

    def _snapshot(self, most_bytes: int) -> dict[str, Any]:
        alerts = self._book.open()
        couriers = [courier for courier, _ in self._couriers.values()]
        counters = sum((self._count(courier) for courier in couriers), self._past)
        return {"last_event": self._last_saved, "open": listing(alerts, most_bytes), "open_total": len(alerts),
                "summary": [_summed(alert) for alert in alerts[-SUMMED:]],
                "counters": dict(counters),
                "queues": [{"target": courier.name, "waiting": len(courier.spool), "error": courier.error}
                           for courier in couriers]}


def _summed(alert: Alert) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(alert.since))
    return f"{alert.kind} {alert.subject} {alert.state} since {since}{', acknowledged' if alert.acked else ''}"


def _limits(config: Any) -> Limits:
    return Limits(config.group, config.repeat, config.flap_changes, config.flap_period)


async def _try(sending: Awaitable[None]) -> str:
    try:
        async with asyncio.timeout(TEST_PATIENCE):
            await sending
    except TimeoutError:
        return f"no outcome after {TEST_PATIENCE:g} s"
    except (deliver.Away, deliver.Refused) as error:
        return str(error)
    return ""
