"""What a process may ask of the kernel about itself and its kin: prctl(2), which Python does not offer."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

_SET_PDEATHSIG, _SET_NAME, _SET_CHILD_SUBREAPER = 1, 15, 36  # linux/prctl.h
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def end_with_parent(parent: int, by: signal.Signals) -> None:
    """Be sent ``by`` when the parent dies, even if this process hangs and never sees its pipe end.

    Ends the process at once if ``parent`` is not its parent: it has died already.
    """
    _prctl(_SET_PDEATHSIG, by)
    if os.getppid() != parent:
        os._exit(1)


def name_process(name: str) -> None:
    """What `ps -o comm` and `pgrep` call this process; the kernel keeps 15 characters."""
    _prctl(_SET_NAME, name.encode())


@contextmanager
def adopting() -> Iterator[None]:
    """Within this, a descendant whose parent ends becomes a child of this process and not of init. Raises OSError."""
    if _prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    try:
        yield
    finally:
        _prctl(_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
