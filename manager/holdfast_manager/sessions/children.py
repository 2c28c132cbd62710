"""Sessions that a session runs and waits for: each a process of its own, with its own log, that outlives its parent."""

from __future__ import annotations

from collections.abc import Callable

from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.values import SessionEntry, SessionState
from holdfast_manager.settings import ManagerSettings

from .launch import SessionLauncher


def run_child(
    settings: ManagerSettings, catalog: Catalog, begin: Callable[[], SessionEntry], stopped: Callable[[], bool]
) -> SessionEntry:
    """Run the session that ``begin`` writes down, and wait for its end; it is asked to stop when ``stopped``.

    Called in the parent's own thread. Raises what ``begin`` raises.
    """
    sessions = catalog.sessions
    with SessionLauncher(settings) as launcher:
        number = begin().id
        launcher.run(number)
        while (entry := sessions.get(number)).state is not SessionState.ENDED:
            launcher.wait(settings.timing.poll)
            if launcher.process.poll() is not None:
                sessions.reap_dead()
            if stopped():
                sessions.request_stop(number)
        launcher.process.wait()
    return entry
