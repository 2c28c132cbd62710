"""Work on a repository in a child process that is killed before a system call, its last writes lost or not."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from holdfast_agent.repository.repository import Repository

from . import repositories
from .faults import PowerLoss, everything, nothing


def open_mortal(folder: Path, at: int, lose: bool) -> Repository:
    """The repository of ``folder``; its process dies before the ``at``-th call. ``lose``: with what it did not sync."""
    return repositories.open_at(folder, PowerLoss(at, folder / "stash", nothing if lose else everything))


def told_before_death(work: Callable[[int], object]) -> int:
    """Fork, and have the child do ``work``, which must kill it: bytes that it wrote to the descriptor given to it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(writer)
        finally:
            os._exit(1)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, "the child was not killed"
    with os.fdopen(reader, "rb") as told:
        return len(told.read())
