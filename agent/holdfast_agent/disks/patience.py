"""How long a server of disks is waited for."""

from __future__ import annotations

import time

PAUSES_S = (0.0, 0.3, 1.0, 3.0, 6.0)
"""Before each attempt to go on with a read: a server that is restarted, or a link that flaps, is borne for some ten
seconds. The first is at once: often only an idle connection was closed."""


class Patience:
    """The end of a call that is made of several: a server that lets bytes drip does not hold it for longer."""

    def __init__(self, timeout_s: float) -> None:
        self._end = time.monotonic() + timeout_s

    @property
    def over(self) -> bool:
        return time.monotonic() >= self._end

    def left_s(self) -> float:
        """More than 0. Raises TimeoutError when it has run out."""
        left_s = self._end - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the server is too slow")
        return left_s
