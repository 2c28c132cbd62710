"""What of a job is to be run again after a session of it failed."""

from __future__ import annotations

from holdfast_manager.catalog.catalog import Catalog

from .events import VmsPlanned


def vms_without_point(catalog: Catalog, session: int) -> frozenset[str] | None:
    """Ids of the VMs, and names of those that could not even be planned, of which a session made no point.

    None: it did not get as far as planning, or everything has its point: then all is run again.
    """
    done = catalog.points.vms_of_session(session)
    last = 0
    while page := catalog.events.after(session, last):
        for event in page:
            if event.kind == VmsPlanned.__name__:
                wanted = {str(vm["vm"]) for vm in event.data["vms"]} - done
                return frozenset(wanted | {str(name) for name in event.data["unplanned"]}) or None
        last = page[-1].id
    return None
