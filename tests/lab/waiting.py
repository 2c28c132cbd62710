"""Waiting for what another process does in its own time."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PAUSE_S = 0.02


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 90.0) -> Any:
    """What ``condition`` gives, as soon as it is true; ``what`` is waited for, as a failure tells it."""
    give_up = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < give_up, f"{what}: not within {timeout_s:g} s"
        time.sleep(_PAUSE_S)
    return found


def listens(place: Path | tuple[str, int]) -> bool:
    """Whether connections to a Unix socket, or to a port of a host, are taken: its file is there a moment earlier."""
    family = socket.AF_UNIX if isinstance(place, Path) else socket.AF_INET
    with socket.socket(family) as probe:
        return probe.connect_ex(str(place) if isinstance(place, Path) else place) == 0
