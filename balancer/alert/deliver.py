"""Brings messages out: by SMTP (RFC 5321), or by starting a command. Runs in the alert process.

Every recipient, and the command, has a queue and a `Courier` of its own: who cannot be reached holds up nobody else,
and each is told in order, each message once (again after a crash in between, with the same Message-ID).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import aiosmtplib
from aiosmtplib import SMTPDataError, SMTPException, SMTPRecipientsRefused, SMTPResponseException, SMTPSenderRefused

from balancer.alert import word
from balancer.alert.group import Notice
from balancer.alert.spool import Spool
from balancer.component import WARNING
from balancer.errors import Ns7Error

if TYPE_CHECKING:
    from balancer.config.model import Alerts

FIRST_WAIT, MOST_WAIT = 1.0, 60.0       # between tries
STEP_PATIENCE, MAIL_PATIENCE = 10.0, 45.0
MOST_OUTPUT = 4096
AUTHENTICATION_REQUIRED = 530           # RFC 4954 §6: our settings are at fault, not the message
PR_SET_PDEATHSIG = 1
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_libc = ctypes.CDLL(None)


class Away(Ns7Error):
    """Not now: try the same message again later."""


class Refused(Ns7Error):
    """Never: this message will not be taken."""


def sender(alerts: Alerts) -> str:
    """The address that mail comes from."""
    return alerts.mail_from or f"ns7@{word.host_name(os.uname().nodename)}"


async def send_mail(alerts: Alerts, node: str, recipient: str, notice: Notice, dropped: int) -> None:
    """One transaction for one recipient."""
    message = word.mail(notice, node, sender(alerts), alerts.mail_to, dropped)
    client = None
    try:
        async with asyncio.timeout(MAIL_PATIENCE):
            client = _client(alerts)
            await client.connect()
            await client.sendmail(sender(alerts), [recipient], message)
            with contextlib.suppress(SMTPException, OSError):       # it is taken already
                await client.quit()
    except (SMTPException, OSError, ValueError) as error:
        refusal = error.recipients[0] if isinstance(error, SMTPRecipientsRefused) else error
        if isinstance(refusal, SMTPResponseException):
            reason = word.clean(f"{refusal.code} {refusal.message}")[:200]
            if refusal.code // 100 == 5 and refusal.code != AUTHENTICATION_REQUIRED and isinstance(
                    error, SMTPRecipientsRefused | SMTPSenderRefused | SMTPDataError):
                raise Refused(reason) from None
            raise Away(reason) from None
        raise Away(word.clean(str(error))[:200] or "no answer in time") from None
    finally:
        if client is not None:
            client.close()


def _client(alerts: Alerts) -> aiosmtplib.SMTP:
    # Both files are read each time: a renewed one counts at once, and a missing one is named.
    authority = None if alerts.smtp_ca_file is None else Path(alerts.smtp_ca_file).read_text()
    context = None if alerts.smtp_tls == "none" else ssl.create_default_context(cadata=authority)
    secret = alerts.smtp_password_file
    password = None if secret is None else Path(secret).read_text().strip("\r\n")
    return aiosmtplib.SMTP(
        hostname=alerts.smtp.host, port=alerts.smtp.port, timeout=STEP_PATIENCE,
        local_hostname=word.host_name(os.uname().nodename), use_tls=alerts.smtp_tls == "tls",
        start_tls=alerts.smtp_tls == "starttls", tls_context=context,
        username=alerts.smtp_user, password=password)


async def run_command(alerts: Alerts, node: str, notice: Notice, dropped: int) -> None:
    """The command with the facts in its environment and all items on its standard input; Refused when it fails."""
    facts = os.memfd_create("ns7-alert")
    try:
        os.write(facts, word.lines(notice))
        os.lseek(facts, 0, os.SEEK_SET)
        process = await asyncio.create_subprocess_exec(
            *alerts.command, stdin=facts, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env={"PATH": PATH, **word.environment(notice, node, dropped)}, cwd="/", start_new_session=True,
            preexec_fn=lambda: _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
    except OSError as error:
        raise Refused(f"{alerts.command[0]}: {error.strerror}") from None
    finally:
        os.close(facts)
    assert process.stdout is not None
    reading = asyncio.create_task(_beginning(process.stdout))
    try:
        async with asyncio.timeout(alerts.command_timeout):
            code = await process.wait()
        await asyncio.wait({reading}, timeout=0.2)          # what it left in the background may hold the pipe
    except TimeoutError:
        raise Refused(f"killed after {alerts.command_timeout:g} s") from None
    finally:
        reading.cancel()
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
    if code:
        output = reading.result() if reading.done() else ""
        raise Refused(word.clean(f"exit code {code}: {output}")[:200])


async def _beginning(stream: asyncio.StreamReader) -> str:
    """The first bytes of a stream; the rest is read and thrown away."""
    kept = b""
    while piece := await stream.read(65536):
        kept += piece[:MOST_OUTPUT - len(kept)]
    return kept.decode("utf-8", "replace")


class Courier:
    """Empties one queue in order. `send(notice, dropped)` raises Away or Refused; log gets one line per change."""

    def __init__(self, name: str, folder: Path, send: Callable[[Notice, int], Awaitable[None]],
                 log: Callable[[str], None], on_change: Callable[[], None]) -> None:
        self.name, self.spool, self.send = name, Spool(folder), send
        self.counts = Counter[str]()        # sent, deferred (tries that must be repeated), refused
        self.error = ""
        self._log, self._on_change = log, on_change
        self._news = asyncio.Event()
        self._stopping = False
        self._wait = 0.0

    def put(self, notice: Notice) -> None:
        """Queue a notice."""
        self.spool.put(notice.number, notice.encode(), notice.is_information)
        if not self._wait:
            self._news.set()

    def retry(self) -> None:
        """Try again now, not only when the wait is over."""
        self._news.set()

    def stop(self) -> None:
        """Let `run` return when the queue is empty or cannot be emptied now."""
        self._stopping = True
        self._news.set()

    async def run(self) -> None:
        """Deliver until stopped."""
        task = asyncio.current_task()
        assert task is not None
        while True:
            self._news.clear()
            head = self.spool.head()
            if head is not None:
                await self._deliver(*head)
                if task.cancelling():           # aiosmtplib's wait_for loses it when an answer comes at that moment
                    raise asyncio.CancelledError
                self._on_change()
            if head is None or self._wait:
                if self._stopping:
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._wait or None):
                        await self._news.wait()

    async def _deliver(self, name: str, data: bytes) -> None:
        dropped = self.spool.dropped
        try:
            notice = Notice.decode(data)
        except ValueError:                      # of another version
            self.spool.set_aside(name)
            self.spool.damaged += 1
            return
        try:
            await self.send(notice, dropped)
        except Away as error:
            self.counts["deferred"] += 1
            self._wait = min(max(FIRST_WAIT, 2 * self._wait), MOST_WAIT)
            if self.error != str(error):
                self.error = str(error)
                self._log(f"{WARNING}{self.name}: cannot be told now, kept and tried again: {error}")
            return
        except Refused as error:
            self.counts["refused"] += 1
            self.error = str(error)
            self._log(f"{WARNING}{self.name}: refused for good: {error}")
            self.spool.set_aside(name)
        else:
            self.counts["sent"] += 1
            self.spool.done(name)
            self.spool.told_dropped(dropped)
            if self._wait:
                self._log(f"{self.name}: can be told again, {len(self.spool)} more waiting")
            self.error = ""
        self._wait = 0.0
