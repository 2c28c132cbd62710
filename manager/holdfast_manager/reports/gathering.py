"""Reports from all that the catalogue has stored."""

from __future__ import annotations

from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import EventEntry

from .session_report import SessionReport, session_report


def whole_report(catalog: Catalog, number: int) -> SessionReport:
    """The report of a session, running or ended. Raises ``NotFound``."""
    session = catalog.sessions.get(number)  # first: once it has ended, nothing is written after what is read next
    events: list[EventEntry] = []
    while page := catalog.events.after(number, events[-1].id if events else 0):
        events += page
    return session_report(session, catalog.tasks.list(number), events, catalog.notices.list(number))
