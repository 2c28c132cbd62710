"""The program of a session's process: it waits for the number of its session, and runs it to its end.

The parent is :class:`holdfast_manager.sessions.launch.SessionLauncher`; without a number the program ends. People read
the outcome from the catalogue.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

from holdfast_agent.errors import HoldfastError
from holdfast_agent.prctl import name_process
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.values import SessionResult
from holdfast_manager.logs import start_logging
from holdfast_manager.settings import ManagerSettings

from .launch import STARTING, tell_end
from .process import run_session


def main() -> int:
    """Exit status: 0 when the session ended well or with warnings, 1 or that of its error otherwise."""
    number = sys.stdin.readline().strip()
    if not number.isdigit():
        log = Path("/proc/self/fd/2").readlink()
        if log.name.startswith(STARTING):  # whoever started us is gone
            log.unlink(missing_ok=True)
        return 0
    name_process(f"session-{number}")  # its command line may be that of the process that it was forked from
    try:
        settings = ManagerSettings.load()
        start_logging(settings.log_level, settings.log_format, int(number))
        result = run_session(settings, int(number))
        tell_end()
        if settings.notifiers:
            tell_others(settings)
    except HoldfastError as error:
        logging.getLogger(__name__).error("%s", error)
        return error.exit_code
    return 0 if result in (SessionResult.SUCCESS, SessionResult.WARNING) else 1


def tell_others(settings: ManagerSettings) -> None:
    """The session is over, whatever becomes of its notices; what is not delivered now the service tries again."""
    from holdfast_manager.notifying.delivery import deliver_due

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    with Catalog.open(settings) as catalog:
        deliver_due(settings, catalog)
