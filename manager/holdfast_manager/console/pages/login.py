"""Logging in by name and password or by a token, and out."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import secrets

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from holdfast_agent.errors import Denied, HoldfastError
from holdfast_manager.reports.html import Html, element
from holdfast_manager.rights.errors import AccessRefused
from holdfast_manager.rights.values import DENIED, DONE, AuditRecord

from ..layout import document
from ..visit import Console, Visit, form_fields, require_own_origin

COOKIE = "__Host-holdfast"
_NONCE = "__Host-holdfast-form"
_WAIT_S = 20.0
log = logging.getLogger(__name__)


def login_form(console: Console, request: Request, told: str = "", status: int = 200) -> Response:
    """GET ``/login``"""
    nonce = secrets.token_urlsafe(24)
    following = _local(request.query_params.get("next", "/"))
    hidden = (
        element("input", type="hidden", name="csrf", value=console.logins.proof(nonce)),
        element("input", type="hidden", name="next", value=following),
    )
    alert = element("p", told, role="alert", class_="error") if told else ""
    password = element(
        "form", *hidden,
        _field("Name", "name", "text", "username", autofocus="autofocus"),
        _field("Password", "password", "password", "current-password"),
        element("button", "Log in", type="submit", class_="action"),
        method="post", action="/login",
    )  # fmt: skip
    token = element(
        "form", *hidden,
        _field("Token", "token", "password", "off"),
        element("button", "Log in by token", type="submit", class_="plain"),
        method="post", action="/login",
    )  # fmt: skip
    other = element("details", element("summary", "Log in by a token"), token)
    main = element(
        "main", element("h1", "Holdfast"), alert, password, other, id="content", class_="login", tabindex="-1"
    )
    response = HTMLResponse(document("Log in", main), status)
    _set_cookie(response, _NONCE, nonce)
    return response


def login(console: Console, request: Request, body: bytes) -> Response:
    """POST ``/login``"""
    fields = form_fields(body)
    require_own_origin(request)
    proof = console.logins.proof(request.cookies.get(_NONCE, ""))
    if not hmac.compare_digest(fields.get("csrf", "").encode(), proof.encode()):
        return login_form(console, request, "The form had been there for too long; please try again.", 403)
    name, token = fields.get("name", "")[:64], fields.get("token", "")
    place = place_of(request)
    address_key, name_key = _address_key(request), name.casefold()
    if not console.checking.acquire(timeout=_WAIT_S):
        return login_form(console, request, "Too many log in at the same time; please try again.", 503)
    try:
        # Looked at here, where few are at a time: of many guesses sent at once each would find none before it.
        wait_s = max(console.guesses_of_address.wait_s(address_key), console.guesses_of_name.wait_s(name_key))
        if wait_s > 0:
            response = login_form(console, request, f"Too many tries; please wait {wait_s:.0f} s.", 429)
            response.headers["Retry-After"] = f"{wait_s + 1:.0f}"
            return response
        mark = console.catalog.users.mark(name)  # before the password is compared: one that is changed now ends it
        user = (
            console.catalog.users.by_token(token)
            if token
            else console.catalog.users.login(name, fields.get("password", ""))
        )
    except AccessRefused:
        console.guesses_of_address.failed(address_key)
        console.guesses_of_name.failed(name_key)
        _record(console, name or "by token", place, DENIED)
        log.warning("a login failed from %s", place)
        return login_form(console, request, "The name or the password is wrong, or the user is disabled.", 403)
    finally:
        console.checking.release()
    console.guesses_of_address.succeeded(address_key)
    console.guesses_of_name.succeeded(name_key)
    _record(console, user.name, place, DONE)
    response = RedirectResponse(_local(fields.get("next", "/")), 303)
    _set_cookie(response, COOKIE, console.logins.begin(user.name, token, mark))
    response.delete_cookie(_NONCE, path="/", secure=True, httponly=True, samesite="strict")
    return response


def logout(visit: Visit) -> Response:
    """POST ``/logout``"""
    if not visit.form:
        raise Denied(reason="this is no form of the console")
    visit.console.logins.end(visit.request.cookies.get(COOKIE, ""))
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")
    return response


def place_of(request: Request) -> str:
    """From where, for the audit log."""
    return f"web {request.client.host if request.client else '?'}"


def _record(console: Console, name: str, place: str, outcome: str) -> None:
    try:
        console.catalog.audit.append(AuditRecord(actor=name, place=place, action="console login", outcome=outcome))
    except HoldfastError as error:
        if outcome == DONE:
            raise
        log.error("a failed login could not be written down: %s", error)


def _field(label: str, name: str, kind: str, autocomplete: str, **more: str) -> Html:
    entry = element(
        "input", type=kind, name=name, id=name, autocomplete=autocomplete, required="required", maxlength="256", **more
    )
    return element("div", element("label", label, for_=name), entry, class_="field")


def _set_cookie(response: Response, name: str, value: str) -> None:
    response.set_cookie(name, value, path="/", secure=True, httponly=True, samesite="strict")


def _local(path: str) -> str:
    """Where to go on: within the console, whatever somebody put into the address."""
    local = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() and "\\" not in path
    return path if local and not path.startswith("/login") else "/"


def _address_key(request: Request) -> str:
    """Whoever has one address of IPv6 has 2^64 of them."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else host
