"""Is a path that a manager asks for below a directory that the agent's configuration opens?"""

from __future__ import annotations

import os
from collections.abc import Iterable


def is_below(path: str, roots: Iterable[str]) -> bool:
    """True if ``path`` is one of the directories ``roots`` or lies below one, both with symbolic links resolved.

    Looks at the file system, so the answer holds for this moment; what does not exist yet is resolved as far as it
    does. A relative path is below nothing. Used by the Transport Service before it starts a mover, and again by the
    mover before it opens a disk.
    """
    if not path.startswith("/") or "\0" in path:
        return False
    real = os.path.realpath(path)
    return any(os.path.commonpath((real, os.path.realpath(root))) == os.path.realpath(root) for root in roots)
