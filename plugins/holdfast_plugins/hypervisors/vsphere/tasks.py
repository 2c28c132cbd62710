"""Waiting for what a server does by itself once it is told: its tasks."""

from __future__ import annotations

import logging
import time
from typing import Any

from .binding import VsphereRefused, refused
from .connection import Connection
from .properties import properties_of

log = logging.getLogger(__name__)

_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0
_PATHS = ("info.state", "info.progress", "info.result", "info.error")
TOO_SLOW = "TaskTooSlow"
"""The name of the fault of a task that was waited for too long; it goes on by itself."""


def finished(connection: Connection, task: Any, without_progress_s: float) -> Any:
    """Wait for a task and return its result.

    Raises :class:`VsphereRefused` with the fault that it ended with, or :data:`TOO_SLOW` when there was no progress for
    so long.
    """
    pause_s, progress, deadline = _SHORTEST_PAUSE_S, None, time.monotonic() + without_progress_s
    while True:
        told = properties_of(connection, task, _PATHS)
        state = str(told.get("info.state", ""))
        if state == "success":
            return told.get("info.result")
        if state == "error":
            raise refused(told.get("info.error"))
        if (state, told.get("info.progress")) != progress:
            progress = (state, told.get("info.progress"))
            deadline = time.monotonic() + without_progress_s
        if time.monotonic() > deadline:
            raise VsphereRefused(TOO_SLOW, f"a task of the server has not gone on for {without_progress_s:g} s")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
