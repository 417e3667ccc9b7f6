"""A real mail server on loopback, in a thread with a loop of its own; its refusals are scripted."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import Callable
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.helpers.need import require_program
from tests.helpers.ports import free_port

Answer = Callable[[str], str]


class MailServer:
    """Keeps what it accepts; a context manager that can be stopped and started again on the same port.

    tls: for STARTTLS, which is required then, or from the first byte if `implicit`. login: name and password required.
    `on_recipient(address)` and `on_data(content)` return the answer, "250 OK" if not given.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, implicit: bool = False,
                 login: tuple[str, str] | None = None, on_recipient: Answer | None = None,
                 on_data: Answer | None = None) -> None:
        self.port = free_port()
        self.accepted: list[tuple[str, EmailMessage]] = []
        self.raw: list[bytes] = []
        self.logins: list[str] = []
        self.encrypted: list[bool] = []
        self.transactions = 0
        self._tls, self._implicit, self._login = tls, implicit, login
        self.on_recipient = on_recipient or (lambda _: "250 OK")
        self.on_data = on_data or (lambda _: "250 OK")
        self._controller: Controller | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def subjects(self, recipient: str = "") -> list[str]:
        return [str(message["Subject"]) for to, message in self.accepted if recipient in ("", to)]

    def bodies(self, recipient: str = "") -> list[str]:
        return [message.get_content() for to, message in self.accepted if recipient in ("", to)]

    def start(self) -> None:
        options: dict[str, Any] = {}
        if self._tls is not None and self._implicit:
            options |= {"ssl_context": self._tls}
        elif self._tls is not None:
            options |= {"tls_context": self._tls, "require_starttls": True}
        if self._login is not None:
            options |= {"authenticator": self._authenticate, "auth_required": True,
                        "auth_require_tls": self._tls is not None}
        self._controller = Controller(self, "127.0.0.1", self.port, loop=asyncio.SelectorEventLoop(), **options)
        self._controller.start()

    def stop(self) -> None:
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    def _authenticate(self, _server: SMTP, session: Session, _envelope: Envelope, _mechanism: str,
                      data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append(data.login.decode())
        right = (data.login.decode(), data.password.decode()) == self._login
        return AuthResult(success=right, handled=False)

    async def handle_RCPT(self, _server: SMTP, _session: Session, envelope: Envelope, address: str,
                          _options: list[str]) -> str:
        answer = self.on_recipient(address)
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, _server: SMTP, session: Session, envelope: Envelope) -> str:
        self.transactions += 1
        assert isinstance(envelope.content, bytes)
        answer = self.on_data(envelope.content.decode())
        if answer.startswith("2"):
            self.raw.append(envelope.content)
            self.encrypted.append(session.ssl is not None)
            message = message_from_bytes(envelope.content, policy=policy.default)
            assert isinstance(message, EmailMessage)
            self.accepted += [(recipient, message) for recipient in envelope.rcpt_tos]
        return answer

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that signs itself, and a server's context with it."""
    openssl = require_program("openssl", "openssl")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return cert, context
