"""Whether what a process has loaded is still what is installed: an upgrade replaces the files that modules are from."""

from __future__ import annotations

import os
import sys

_COARSE_NS = 20_000_000  # by which the clock of file systems may be behind


class Loaded:
    """All modules that are loaded when it is made, plugins and libraries too. ``began_ns``: before the first was."""

    def __init__(self, began_ns: int) -> None:
        places = {getattr(module, "__file__", None) or "" for module in sys.modules.values()}
        self._files = {place: stamp for place in places if (stamp := _stamp(place)) is not None}
        self._torn = any(changed_ns >= began_ns - _COARSE_NS for _, changed_ns, _ in self._files.values())

    def is_installed(self) -> bool:
        """Whether a program that starts now loads the same; a millisecond.

        Never of what was loaded while files changed: it may be of two versions.
        """
        return not self._torn and all(_stamp(place) == stamp for place, stamp in self._files.items())


def _stamp(place: str) -> tuple[int, int, int] | None:
    """Another one for each change of a file: the time is that of its inode, which no package can set."""
    try:
        found = os.stat(place)  # noqa: PTH116 - a thousand of them before each fork
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns, found.st_size
