"""The notifier `webhook`: the session's report as JSON, by HTTP POST, signed if there is a secret."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import SplitResult, urlsplit

import msgspec

from holdfast_agent.errors import NotDelivered, NoticeRefused
from holdfast_plugins.api import Notice, Registry

if TYPE_CHECKING:
    import http.client

_SHORTEST_S = 1.0
_TRY_AGAIN = frozenset({408, 425, 429})
"""Besides 5xx: answers that say "later" (RFC 9110, 15.5)."""
_MAX_ANSWER = 1000


class WebhookOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``url``: https, or http. Redirections are not followed: the report goes where the administrator said, only.

    ``ca_file``: authorities that vouch for the server, if not those of the system. ``headers``: more of them. Secrets:
    "url" in the place of the option, where it is one; "token" becomes "Authorization: Bearer …", by https only; with
    "key" the body is signed: "Holdfast-Signature: t=TIME,v1=HEX", the HMAC-SHA256 of TIME, a dot and the body.
    """

    url: str = ""
    headers: dict[str, Annotated[str, msgspec.Meta(pattern=r"^[\x20-\x7e]*$")]] = {}
    ca_file: str = ""

    def __post_init__(self) -> None:
        if self.url:
            check_url(self.url)
        if any(not name.replace("-", "").isalnum() or not name.isascii() for name in self.headers):
            raise ValueError("a header's name is made of letters, digits and dashes")
        if self.ca_file and not Path(self.ca_file).is_absolute():
            raise ValueError("ca_file must be an absolute path")


def check_url(url: str) -> None:
    """Raise ``ValueError`` unless ``url`` can be posted to."""
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username is not None:
        raise ValueError("url must be https://host/… or http://host/…, without a user; secrets go to secret_file")
    _ = parts.port  # raises ValueError for one that is none
    if not url.isascii() or any(char <= " " for char in url):
        raise ValueError("url must be percent-encoded ASCII")


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent; fields are added, never renamed."""

    key: str
    severity: str
    subject: str
    host: str
    session: dict[str, object]


class WebhookNotifier:
    """A ``Notifier``."""

    def __init__(self, options: WebhookOptions, secret: Mapping[str, str]) -> None:
        self._options = options
        self._secret = secret
        self._url = secret.get("url") or options.url
        try:
            check_url(self._url)
        except ValueError as error:
            raise NoticeRefused(place="webhook", reason=str(error)) from error
        if secret.get("token") and urlsplit(self._url).scheme != "https":
            raise NoticeRefused(place=self._place, reason="a token is never sent without encryption: https is needed")

    def send(self, notice: Notice, timeout_s: float) -> None:
        """One request. An answer of 2xx is success."""
        import http.client

        parts = urlsplit(self._url)
        body = msgspec.json.encode(
            Body(
                key=notice.key, severity=notice.severity, subject=notice.subject, host=notice.host, session=notice.facts
            )
        )
        try:
            connection = self._connection(parts, max(_SHORTEST_S, timeout_s / 4))
            try:
                path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                connection.request("POST", path, body, self._headers(notice, body))
                answer = connection.getresponse()
                answer.read(_MAX_ANSWER)
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NotDelivered(place=self._place, reason=f"{type(error).__name__}: {error}"[:300]) from error
        if not 200 <= answer.status < 300:
            later = answer.status >= 500 or answer.status in _TRY_AGAIN
            raise (NotDelivered if later else NoticeRefused)(place=self._place, reason=f"it answered {answer.status}")

    @property
    def _place(self) -> str:
        """Without path and query, which may hold what only the receiver should know."""
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")

    def _connection(self, parts: SplitResult, timeout_s: float) -> http.client.HTTPConnection:
        import http.client
        import ssl

        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
        trust = ssl.create_default_context(cafile=self._options.ca_file or None)
        return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=timeout_s, context=trust)

    def _headers(self, notice: Notice, body: bytes) -> dict[str, str]:
        headers = {**self._options.headers, "Content-Type": "application/json", "Holdfast-Notice": notice.key}
        if self._secret.get("token"):
            headers["Authorization"] = f"Bearer {self._secret['token']}"
        if self._secret.get("key"):
            moment = str(int(time.time()))
            signed = hmac.new(self._secret["key"].encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
            headers["Holdfast-Signature"] = f"t={moment},v1={signed}"
        return headers


def holdfast_register_notifiers(registry: Registry) -> None:
    registry.notifier(
        "webhook", WebhookNotifier, summary="the session's report as JSON to a web server", options_type=WebhookOptions
    )
