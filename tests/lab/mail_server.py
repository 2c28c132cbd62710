"""A real mail server on loopback, in this process: with STARTTLS and passwords if a test wants them."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from lab.certificates import Certificates


@dataclass
class Mailbox:
    """What arrived. ``answers``: what the next recipients are answered, else they are welcome."""

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)

    async def handle_RCPT(
        self, _server: Any, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        answer = self.answers.pop(0) if self.answers else "250 welcome"
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, _server: Any, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.mails.append(message)
        self.encrypted.append(session.ssl is not None)
        return "250 kept"


@contextlib.contextmanager
def mail_server(
    certificates: Certificates | None = None, password: str = "", implicit: bool = False
) -> Iterator[Mailbox]:
    """With ``certificates`` it demands STARTTLS, or speaks TLS from the start (``implicit``); with ``password`` a
    login."""
    box = Mailbox()

    def check(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: LoginPassword) -> AuthResult:
        box.users.append(data.login.decode())
        return AuthResult(success=data.password == password.encode(), handled=False)

    options: dict[str, Any] = {"hostname": "localhost", "enable_SMTPUTF8": True}
    if password:
        options |= {"authenticator": check, "auth_required": True}
    context = None
    if certificates is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificates.certificate, certificates.key)
        if not implicit:
            options |= {"tls_context": context, "require_starttls": True}
    loop = asyncio.new_event_loop()

    async def serve() -> asyncio.Server:
        return await loop.create_server(
            lambda: SMTP(box, loop=loop, **options), "127.0.0.1", 0, ssl=context if implicit else None
        )

    server = loop.run_until_complete(serve())
    box.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield box
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
