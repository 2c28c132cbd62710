"""Obligations on a hypervisor: written down before the act, struck off after the removal, fulfilled after a crash."""

from __future__ import annotations

import logging

from holdfast_agent.errors import HoldfastError
from holdfast_manager.catalog.catalog import Catalog
from holdfast_plugins.api import HypervisorDriver

log = logging.getLogger(__name__)


class CatalogJournal:
    """The journal of one session for one server (``holdfast_plugins.api.Journal``). Thread-safe, durable."""

    def __init__(self, catalog: Catalog, session: int, server: str, plugin: str) -> None:
        self._catalog = catalog
        self._session = session
        self._server = server
        self._plugin = plugin

    def promise(self, kind: str, data: dict[str, str]) -> int:
        return self._catalog.obligations.write(self._session, self._server, self._plugin, kind, data)

    def strike(self, number: int) -> None:
        self._catalog.obligations.strike(number)


def fulfil_open(catalog: Catalog, driver: HypervisorDriver, server: str) -> tuple[int, list[str]]:
    """Carry out what sessions that are over left open on ``server``. Called by whoever connects to it next.

    Returns how many were carried out, and a sentence for each that could not be (it stays open for the next one).
    """
    catalog.sessions.reap_dead()
    living = {session.id for session in catalog.sessions.living()}
    fulfilled, complaints = 0, []
    for obligation in catalog.obligations.open_of(server=server):
        if obligation.session in living:
            continue
        try:
            driver.fulfil(obligation.kind, obligation.data)
        except HoldfastError as error:
            catalog.obligations.failed(obligation.id, error)
            complaints.append(f"{obligation.kind} left by session {obligation.session} could not be removed: {error}")
            log.warning(complaints[-1])
        else:
            catalog.obligations.strike(obligation.id)
            fulfilled += 1
    return fulfilled, complaints
