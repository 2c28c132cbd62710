"""Waiting for what another process does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

_PAUSE_S = 0.05


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 90.0) -> Any:
    """What ``condition`` gives, as soon as it is true; ``what`` is waited for, as a failure tells it."""
    give_up = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < give_up, f"{what}: not within {timeout_s:g} s"
        time.sleep(_PAUSE_S)
    return found
