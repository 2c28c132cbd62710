"""One request of somebody who is logged in: who it is, what was sent, and what pages are made of."""

from __future__ import annotations

import hmac
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote_to_bytes

from starlette.requests import Request

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.errors import Denied, HoldfastError, UsageError
from holdfast_manager.catalog import Catalog
from holdfast_manager.enrolment.health import AgentState, ask_state
from holdfast_manager.enrolment.inventory import vms_of_servers
from holdfast_manager.host import PluginHost
from holdfast_manager.reports.estate import EstateReport
from holdfast_manager.reports.progress import RateMeter, TaskProgress
from holdfast_manager.reports.session_report import SessionReport
from holdfast_manager.rights.actor import Actor
from holdfast_manager.rights.roles import Right
from holdfast_manager.settings import ManagerSettings
from holdfast_plugins.api import VmRef

from .knowledge import Asked, Kept
from .logins import Login, Logins, Throttle
from .looks import Looks
from .starting import SessionStarts

_INVENTORY_S = 300.0
_AGENTS_S = 30.0
_ASK_AGENT_S = 5.0
_MOST_FIELDS = 20

Inventory = tuple[Mapping[str, "list[VmRef]"], Mapping[str, str]]
AgentAnswer = AgentState | HoldfastError


class Console:
    """What all requests share. Thread-safe; ``close`` ends what it began."""

    def __init__(self, settings: ManagerSettings, catalog: Catalog, config: Path | None) -> None:
        self.settings = settings
        self.catalog = catalog
        self.logins = Logins(settings.console.idle_s)
        self.guesses_of_address = Throttle(free=5)
        self.guesses_of_name = Throttle(free=30)  # more: who knows a name must not be able to lock its owner out
        self.checking = threading.BoundedSemaphore(2)
        """Passwords are compared by two at a time: it is meant to take time and memory."""
        self.looks = Looks(catalog, lambda: self.keys, settings.timing)
        self.starts = SessionStarts(settings, catalog, config)
        self.inventory: Asked[Inventory] = Asked("the inventory of the servers", self._inventory, _INVENTORY_S)
        self.agents: Asked[dict[str, AgentAnswer]] = Asked("the state of the agents", self._agents, _AGENTS_S)
        self.estates: Kept[EstateReport] = Kept(10.0)
        self.reports: Kept[SessionReport] = Kept(1.0)
        self.meters: Kept[RateMeter] = Kept(600.0)
        self.progress: Kept[list[TaskProgress]] = Kept(1.0)

    @cached_property
    def keys(self) -> KeyPair:
        return KeyPair.load(self.settings.identity_file)

    @cached_property
    def host(self) -> PluginHost:
        return PluginHost.load(self.settings.plugins.disabled, self.settings.plugins.load)

    def close(self) -> None:
        self.looks.close()
        self.starts.close()

    def _inventory(self) -> Inventory:
        found, silent = vms_of_servers(self.host, self.catalog)
        return {server: list(vms) for server, vms in found.items()}, silent

    def _agents(self) -> dict[str, AgentAnswer]:
        answers: dict[str, AgentAnswer] = {}
        for entry in self.catalog.agents.list():
            try:
                answers[entry.name] = ask_state(entry, self.keys, _ASK_AGENT_S)
            except HoldfastError as error:
                answers[entry.name] = error
        return answers


class Visit:
    """Made for each request; used by one thread."""

    def __init__(self, console: Console, request: Request, login: Login, actor: Actor, body: bytes = b"") -> None:
        self.console = console
        self.catalog = console.catalog
        self.request = request
        self.login = login
        self.actor = actor
        self._body = body

    def may(self, right: Right) -> bool:
        """Whether pages show what takes that right."""
        return right in self.actor.rights

    def require(self, right: Right, what: str) -> None:
        """Raises ``Denied``."""
        self.actor.require(right, what)

    def act(self, action: str, target: str = "", detail: str = "") -> AbstractContextManager[int]:
        """For the audit log."""
        return self.catalog.audit.act(self.actor, action, target, detail)

    def text(self, name: str, default: str = "") -> str:
        """A parameter of the address."""
        return self.request.query_params.get(name, default)

    def number(self, name: str) -> int | None:
        """A parameter that is a whole number above 0, or missing. Raises :class:`UsageError`."""
        text = self.text(name)
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and 0 < len(text) < 16 and int(text)):
            raise UsageError(reason=f"{name} is a number, not {text[:40]!r}")
        return int(text)

    def raw(self, name: str, default: bytes) -> bytes:
        """A parameter of any bytes, as paths are."""
        for pair in self.request.scope["query_string"].split(b"&"):
            key, _, value = pair.partition(b"=")
            if key == name.encode():
                return unquote_to_bytes(value.replace(b"+", b" "))
        return default

    @cached_property
    def form(self) -> dict[str, str]:
        """What a form sent, once it has proved to be one of ours. Raises :class:`Denied`, :class:`UsageError`."""
        fields = form_fields(self._body)
        require_own_origin(self.request)
        if not hmac.compare_digest(fields.get("csrf", "").encode(), self.login.csrf.encode()):
            raise Denied(reason="this form is not of this login; go back, load the page again, and repeat it")
        return fields


def form_fields(body: bytes) -> dict[str, str]:
    """Raises :class:`UsageError`."""
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=_MOST_FIELDS)
    except ValueError as error:
        raise UsageError(reason="this is no form of the console") from error
    return {name: values[0] for name, values in fields.items()}


def require_own_origin(request: Request) -> None:
    """Browsers say from which site a form comes. Raises :class:`Denied` for another's."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    own = f"https://{request.headers.get('host', '').lower()}"
    if (origin is not None and origin.lower() != own) or site != "same-origin":
        raise Denied(reason="this form was sent by another site")


def address(path: str, /, **parameters: str | bytes | int) -> str:
    """A link within the console."""
    told = "&".join(
        f"{name}={quote(value if isinstance(value, bytes) else str(value), safe='')}"
        for name, value in parameters.items()
        if value not in ("", b"")
    )
    return f"{path}?{told}" if told else path
