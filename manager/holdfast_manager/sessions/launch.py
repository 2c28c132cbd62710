"""Starting the process of a session. Used by the command line, and by the service for scheduled jobs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from holdfast_manager.settings import ManagerSettings


def launch_session(settings: ManagerSettings, session: int, config: Path | None = None) -> int:
    """Start the Backup Manager process of a session that is written down in the catalogue. Returns its process id.

    The process leads a session of its own, so that it outlives the terminal; its stderr goes to one file per session
    in ``settings.log_dir``. Everything else it reads from the catalogue.
    """
    settings.log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = os.open(settings.log_dir / f"session-{session}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    environment = {**os.environ, "HOLDFAST_HOME": str(settings.home)}
    if config is not None:
        environment["HOLDFAST_CONFIG"] = str(config.resolve())
    try:
        process = subprocess.Popen(  # (its parent may leave before it does; nobody waits for it then)
            [sys.executable, "-m", "holdfast_manager.sessions", str(session)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
            close_fds=True,
        )
    finally:
        os.close(log)
    return process.pid
