"""The notifier `smtp`: e-mail with the report of the session, as text and as HTML."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from holdfast_agent.errors import NotDelivered, NoticeRefused
from holdfast_plugins.api import Notice, Registry, Severity

if TYPE_CHECKING:
    import smtplib
    import ssl
    from email.message import EmailMessage

_Address = Annotated[str, msgspec.Meta(pattern=r"^[^@\s<>,]+@[^@\s<>,]+$", max_length=254)]
_FIRST_PERMANENT = 500  # replies of 4xx are for now, of 5xx for good (RFC 5321, 4.2.1)
_SHORTEST_S = 1.0


class Encryption(StrEnum):
    """``STARTTLS``: required, never merely tried. ``NONE``: for a server on the same host only."""

    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"


_PORTS = {Encryption.STARTTLS: 587, Encryption.TLS: 465, Encryption.NONE: 25}


class SmtpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``port`` 0: the usual one of the encryption. ``ca_file``: authorities that vouch for the server, if not those of
    the system. User and password are the secrets "user" and "password"."""

    host: Annotated[str, msgspec.Meta(min_length=1)]
    sender: _Address = msgspec.field(name="from")
    to: Annotated[tuple[_Address, ...], msgspec.Meta(min_length=1, max_length=100)]
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    encryption: Encryption = Encryption.STARTTLS
    ca_file: str = ""

    def __post_init__(self) -> None:
        if self.ca_file and not Path(self.ca_file).is_absolute():
            raise ValueError("ca_file must be an absolute path")


class SmtpNotifier:
    """A ``Notifier``."""

    def __init__(self, options: SmtpOptions, secret: Mapping[str, str]) -> None:
        self._options = options
        self._secret = secret
        if bool(secret.get("user")) != bool(secret.get("password")):
            raise NoticeRefused(place=self._place, reason='give both secrets, "user" and "password", or none')
        if secret.get("user") and options.encryption is Encryption.NONE:
            raise NoticeRefused(place=self._place, reason="a password is never sent without encryption")

    @property
    def _place(self) -> str:
        return f"{self._options.host}:{self._options.port or _PORTS[self._options.encryption]}"

    def send(self, notice: Notice, timeout_s: float) -> None:
        """One connection, one message. All waits of it are bounded by the time that is left."""
        import smtplib

        message = _message(notice, self._options)
        try:
            with self._connected(timeout_s) as server:
                if self._secret.get("user"):
                    server.login(self._secret["user"], self._secret["password"])
                refused = server.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            raise self._failed(max(code for code, _ in error.recipients.values()), _told(error)) from error
        except smtplib.SMTPResponseException as error:
            raise self._failed(error.smtp_code, _told(error)) from error
        except (smtplib.SMTPException, OSError) as error:
            raise NotDelivered(place=self._place, reason=_told(error)) from error
        if refused:
            # the others have it already; to send it again would give them two
            raise NoticeRefused(place=self._place, reason=f"not taken for {', '.join(sorted(refused))}")

    def _connected(self, timeout_s: float) -> smtplib.SMTP:
        import smtplib

        options = self._options
        port = options.port or _PORTS[options.encryption]
        each_s = max(_SHORTEST_S, timeout_s / 8)  # of a conversation's steps few are slow
        if options.encryption is Encryption.TLS:
            return smtplib.SMTP_SSL(options.host, port, timeout=each_s, context=self._trust())
        server = smtplib.SMTP(options.host, port, timeout=each_s)
        try:
            if options.encryption is Encryption.STARTTLS:
                server.starttls(context=self._trust())
        except BaseException:
            server.close()
            raise
        return server

    def _trust(self) -> ssl.SSLContext:
        import ssl

        return ssl.create_default_context(cafile=self._options.ca_file or None)

    def _failed(self, code: int, reason: str) -> NotDelivered | NoticeRefused:
        kind = NoticeRefused if code >= _FIRST_PERMANENT else NotDelivered
        return kind(place=self._place, reason=reason)


def _message(notice: Notice, options: SmtpOptions) -> EmailMessage:
    from email.message import EmailMessage
    from email.utils import formatdate

    message = EmailMessage()
    message["Subject"] = notice.subject
    message["From"] = f"Holdfast <{options.sender}>"
    message["To"] = ", ".join(options.to)
    message["Date"] = formatdate(notice.ended, localtime=True)
    message["Message-ID"] = f"<{notice.key}@{options.sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office replies, please
    if notice.severity is Severity.ERROR:
        message["Importance"] = "high"
    message.set_content(notice.text)
    message.add_alternative(notice.html, subtype="html")
    return message


def _told(error: Exception) -> str:
    """A server's words are input: one line of bounded length, without control characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return "".join(char if char.isprintable() else "?" for char in text)[:300]


def holdfast_register_notifiers(registry: Registry) -> None:
    registry.notifier(
        "smtp", SmtpNotifier, summary="e-mail with the session's report, by a mail server", options_type=SmtpOptions
    )
