"""A session with a vCenter or an ESXi host that stays logged in: kept alive, and begun anew when it was ended."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from http.client import HTTPSConnection
from http.cookies import SimpleCookie
from typing import Any, TypeVar

from holdfast_agent.errors import HypervisorUnreachable

from .binding import Binding, VsphereRefused, answering, load_binding
from .options import VsphereOptions
from .trust import connections_to, shown_fingerprint

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 240.0
"""A vCenter ends sessions after 30 minutes without a call, some administrators after 5."""
_IDLE_S = 20.0
"""For which an HTTP connection is kept for the next call: a vCenter drops them after a minute or less, and a call that
is sent into a dropped one is lost, without anybody knowing whether it was carried out."""
_LAST_CALL_S = 5.0
"""For a call of the keeper that is under way when the connection is closed; its thread ends with the process."""
_COOKIE = "vmware_soap_session"
_T = TypeVar("_T")


class Connection:
    """Thread-safe. ``secret``: ``user`` and ``password``.

    Managed objects hold the one stub of this connection, so they stay good when the session is begun anew. What belongs
    to a session on the server (filters, views) does not: :attr:`logins` tells.
    """

    def __init__(self, options: VsphereOptions, secret: Mapping[str, str], keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self.server = options.address
        self._options = options
        self._secret = dict(secret)
        self._keep_alive_s = keep_alive_s
        self._lock = threading.Lock()
        self._stub: Any = None
        self._binding: Binding | None = None
        self._content: Any = None
        self._closing = threading.Event()
        self._keeper: threading.Thread | None = None
        self.logins = 0
        """How often a session was begun."""

    @property
    def vim(self) -> Any:
        """The types of the API. Connected only."""
        return self._bound().vim

    @property
    def is_vcenter(self) -> bool:
        """Whether there is a vCenter, or an ESXi host by itself."""
        return bool(self._content.about.apiType == "VirtualCenter")

    @property
    def version(self) -> Any:
        """Of the API that is spoken, as pyvmomi names it."""
        return self._stub.version

    @property
    def cookie(self) -> str:
        """What lets a bearer at files of datastores for as long as this session lives: a secret."""
        found = SimpleCookie(self._stub.cookie).get(_COOKIE)
        return f"{_COOKIE}={found.coded_value}" if found else ""

    def connect(self) -> None:
        """Raises ``HypervisorUnreachable`` (retryable)."""
        binding = load_binding(self.server)
        options = self._options
        try:
            connections = connections_to(options.pin, options.ca_file)
        except OSError as error:
            raise HypervisorUnreachable(server=self.server, reason=f"ca_file: {error}") from error
        self._stub = binding.new_stub(options.host, options.port, connections, options.timeout, _IDLE_S)
        self._binding = binding
        try:
            with answering(binding, self.server):
                instance = binding.vim.ServiceInstance("ServiceInstance", self._stub)
                content = instance.RetrieveContent()
                binding.speak(self._stub, str(content.about.apiVersion))
                self._content = instance.RetrieveContent()
        except VsphereRefused as error:
            raise HypervisorUnreachable(server=self.server, reason=str(error)) from error
        except HypervisorUnreachable as error:
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                raise self._untrusted(error) from error
            raise
        self._log_in(0)
        self._keeper = threading.Thread(target=self._keep_alive, name="vsphere-keep-alive", daemon=True)
        self._keeper.start()

    def close(self) -> None:
        """Log out. Must not raise."""
        self._closing.set()
        if self._keeper is not None:
            self._keeper.join(_LAST_CALL_S)
        if self._binding is None:
            return
        with suppress(VsphereRefused, HypervisorUnreachable), answering(self._binding, self.server):
            if self.logins:
                self._content.sessionManager.Logout()
        self._stub.DropConnections()

    @property
    def credentials(self) -> tuple[str, str]:
        """User and password."""
        return self._secret.get("user", ""), self._secret.get("password", "")

    def web(self) -> HTTPSConnection:
        """A connection of one's own to the same server, trusted as this one is, for what is no SOAP. Not open yet."""
        options = self._options
        return connections_to(options.pin, options.ca_file)(options.host, options.port, timeout=options.timeout)

    def web_at(self, host: str, port: int, pin: str) -> HTTPSConnection:
        """Likewise to a host that the server vouches for by its certificate."""
        return connections_to(pin, "")(host, port, timeout=self._options.timeout)

    def is_at(self, host: str) -> bool:
        """Whether the server is reached by this name."""
        return host.lower() == self._options.host.lower()

    def object(self, kind: str, identifier: str) -> Any:
        """A managed object by its reference, such as ("VirtualMachine", "vm-12"). Nobody is asked whether it exists."""
        return getattr(self.vim, kind)(identifier, self._stub)

    def server_time(self) -> datetime:
        """The server's clock; asking for it keeps the session alive."""
        told: datetime = self.read(lambda _: self.object("ServiceInstance", "ServiceInstance").CurrentTime())
        return told

    def read(self, question: Callable[[Any], _T]) -> _T:
        """What the server says to ``question``, which is given the service's content; asked twice if need be.

        Raises :class:`VsphereRefused`, or ``HypervisorUnreachable`` when the server is lost or does not answer.
        """
        try:
            return self.act(question)
        except HypervisorUnreachable:
            if self._closing.is_set():
                raise
            return self.act(question)

    def act(self, deed: Callable[[Any], _T]) -> _T:
        """As :meth:`read`, for what changes something: asked again only if the server has refused to listen."""
        known = self.logins
        try:
            return self._once(deed)
        except VsphereRefused as error:
            if error.fault != "NotAuthenticated":
                raise
        log.info("the session with %s was ended; a new one is begun", self.server)
        self._log_in(known)
        return self._once(deed)

    def _once(self, deed: Callable[[Any], _T]) -> _T:
        with answering(self._bound(), self.server):
            return deed(self._content)

    def _bound(self) -> Binding:
        if self._binding is None:
            raise HypervisorUnreachable(server=self.server, reason="it is not connected")
        return self._binding

    def _log_in(self, known: int) -> None:
        """Begin a session, unless somebody has since the login ``known``."""
        with self._lock:
            if self.logins != known:
                return
            self._stub.cookie = ""
            try:
                self._once(self._give_credentials)
            except VsphereRefused as error:
                reason = "the user's name or password is wrong" if error.fault == "InvalidLogin" else str(error)
                raise HypervisorUnreachable(server=self.server, reason=reason) from error
            self.logins += 1

    def _give_credentials(self, content: Any) -> None:
        content.sessionManager.Login(*self.credentials)

    def _keep_alive(self) -> None:
        while not self._closing.wait(self._keep_alive_s):
            try:
                self.server_time()
            except (VsphereRefused, HypervisorUnreachable) as error:
                log.warning("%s was not reached to keep the session alive: %s", self.server, error)

    def _untrusted(self, error: HypervisorUnreachable) -> HypervisorUnreachable:
        reason = str(error.fields["reason"])
        shown = shown_fingerprint(self._options.host, self._options.port, self._options.timeout)
        if shown and not self._options.pin:
            reason += f"; if the server is known to have the certificate {shown}, set certificate_sha256 to that"
        return HypervisorUnreachable(server=self.server, reason=reason)
