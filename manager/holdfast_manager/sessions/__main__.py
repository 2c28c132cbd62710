"""``python -m holdfast_manager.sessions NUMBER``: the Backup Manager process of one session.

Started by :func:`holdfast_manager.sessions.launch.launch_session`. Exit status: 0 when the session ended well or with
warnings, 1 otherwise; people read the outcome from the catalogue.
"""

from __future__ import annotations

import logging
import sys

from holdfast_agent.errors import HoldfastError
from holdfast_manager.catalog.values import SessionResult
from holdfast_manager.settings import ManagerSettings

from .process import run_session


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not arguments[0].isdigit():
        sys.stderr.write("usage: python -m holdfast_manager.sessions NUMBER\n")
        return 2
    try:
        settings = ManagerSettings.load()
        logging.basicConfig(
            level=settings.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )
        result = run_session(settings, int(arguments[0]))
    except HoldfastError as error:
        logging.getLogger(__name__).error("%s", error)
        return error.exit_code
    return 0 if result in (SessionResult.SUCCESS, SessionResult.WARNING) else 1


sys.exit(main(sys.argv[1:]))
