"""Whether a domain that was shut off has been started since: libvirt tells of every start, also of one that is over."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from holdfast_agent.errors import HypervisorUnreachable

from .binding import LibvirtRefused

if TYPE_CHECKING:
    from .connection import Connection


class Starts:
    """Listens from now on, on the connection that there is now; when that is lost, a start may have been missed."""

    def __init__(self, connection: Connection, raw: Any, domain: Any) -> None:
        """``raw``, ``domain``: libvirt's own objects. Raises :class:`LibvirtRefused` or ``HypervisorUnreachable``."""
        self._connection, self._raw = connection, raw
        self._started = threading.Event()
        api = connection.binding.api
        lifecycle = api.VIR_DOMAIN_EVENT_ID_LIFECYCLE
        begun = (api.VIR_DOMAIN_EVENT_STARTED, api.VIR_DOMAIN_EVENT_RESUMED)

        def happened(_connection: object, _domain: object, event: int, _detail: int, _opaque: object) -> None:
            if event in begun:
                self._started.set()

        register = raw.domainEventRegisterAny
        self._number: int | None = connection.call("events", lambda: register(domain, lifecycle, happened, None))

    def why_not_trusted(self) -> str:
        """Why the domain may have written to its disks; empty if it has not."""
        if self._started.is_set():
            return "it was started while its images were read"
        return "" if self._raw.isAlive() else "the connection was lost, and with it the word of any start"

    def release(self) -> None:
        """Idempotent."""
        number, self._number = self._number, None
        if number is not None:
            with suppress(LibvirtRefused, HypervisorUnreachable):
                self._connection.call("the end of events", lambda: self._raw.domainEventDeregisterAny(number))
