"""What holds for every request, before any page is asked: by which name it calls, how much it sends, and how slowly;
and what every answer tells the browser that it may do with it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MOST_HEAD_BYTES = 16 << 10
_MOST_BODY_BYTES = 64 << 10
_BODY_S = 10.0
_METHODS = ("GET", "HEAD", "POST")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """ASGI middleware, the outermost. ``hosts``: names by which the console may be called, in small letters.

    A page of somebody else's that has its own name resolved to our address (DNS rebinding) calls us by that name.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refused = self._refusal(scope)
        body = b""
        if refused is None and scope["method"] == "POST":
            try:
                body = await asyncio.wait_for(_whole(receive), _BODY_S)
            except (TimeoutError, _TooMuch):
                refused = PlainTextResponse("The request is too large, or too slow.\n", 413, {"Connection": "close"})
        if refused is not None:
            await refused(scope, receive, dressed)
            return
        await self._app(scope, _once(body, receive) if scope["method"] == "POST" else receive, dressed)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        if scope["method"] not in _METHODS:
            return PlainTextResponse("GET, HEAD and POST only.\n", 405, {"Allow": ", ".join(_METHODS)})
        if sum(len(name) + len(value) for name, value in scope["headers"]) > _MOST_HEAD_BYTES:
            return PlainTextResponse("The head of the request is too large.\n", 431, {"Connection": "close"})
        if host_name(Headers(scope=scope).get("host", "")) not in self._hosts:
            text = "The console is not known by this name; `hosts` in the configuration's table console adds it.\n"
            return PlainTextResponse(text, 421)
        return None


def host_name(host: str) -> str:
    """ "backup.example.com" of "Backup.example.com:8443", "::1" of "[::1]:8443"."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name.strip("[]").lower()


class _TooMuch(Exception):
    """More than any form has."""


async def _whole(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return body
        body += bytes(message.get("body", b""))
        if len(body) > _MOST_BODY_BYTES:
            raise _TooMuch
        if not message.get("more_body"):
            return body


def _once(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
