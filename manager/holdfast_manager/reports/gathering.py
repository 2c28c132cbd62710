"""Reports from all that the catalogue has stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.overview import Overview
from holdfast_manager.catalog.values import EventEntry

from .estate import EstateReport, estate_report
from .protection import vm_lines
from .session_report import SessionReport, session_report

if TYPE_CHECKING:
    from holdfast_plugins.api import VmRef


def whole_report(catalog: Catalog, number: int) -> SessionReport:
    """The report of a session, running or ended. Raises ``NotFound``."""
    session = catalog.sessions.get(number)  # first: once it has ended, nothing is written after what is read next
    events: list[EventEntry] = []
    while page := catalog.events.after(number, events[-1].id if events else 0):
        events += page
    return session_report(session, catalog.tasks.list(number), events, catalog.notices.list(number))


def whole_estate(
    catalog: Catalog,
    inventory: Mapping[str, Sequence[VmRef]],
    silent: Mapping[str, str],
    window_s: float,
    rpo_s: float,
    now: float,
) -> EstateReport:
    """The report over everything. ``inventory``: the VMs of the servers that told; ``silent``: why others did not."""
    overview = Overview(catalog.database)
    return estate_report(
        since=now - window_s,
        until=now,
        rpo_s=rpo_s,
        vms=vm_lines(overview.vms(), inventory, now, rpo_s),
        sessions=overview.sessions(now - window_s),
        stored=overview.stored(),
        worked=overview.worked(now - window_s),
        silent=silent,
    )
