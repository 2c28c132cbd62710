"""``python -m holdfast_manager.sessions``: the Backup Manager process of the session whose number it reads from stdin.

Started by :class:`holdfast_manager.sessions.launch.SessionLauncher`; without a number it ends. Exit status: 0 when the
session ended well or with warnings, 1 otherwise; people read the outcome from the catalogue.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from holdfast_agent.starting import leave_alone, loading

with loading():
    from holdfast_agent.errors import HoldfastError
    from holdfast_manager.catalog.values import SessionResult
    from holdfast_manager.settings import ManagerSettings

    from .launch import STARTING, tell_end
    from .process import run_session


def main() -> int:
    number = sys.stdin.readline().strip()
    if not number.isdigit():
        log = Path("/proc/self/fd/2").readlink()
        if log.name.startswith(STARTING):  # whoever started us is gone
            log.unlink(missing_ok=True)
        return 0
    try:
        settings = ManagerSettings.load()
        logging.basicConfig(
            level=settings.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )
        result = run_session(settings, int(number))
        tell_end()
    except HoldfastError as error:
        logging.getLogger(__name__).error("%s", error)
        return error.exit_code
    return 0 if result in (SessionResult.SUCCESS, SessionResult.WARNING) else 1


status = main()
leave_alone()
sys.exit(status)
