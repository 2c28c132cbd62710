"""A quick start and a quick end of processes that live for seconds, as a mover, a session or a command does."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Around the imports of a program: modules stay, so that nobody need look through them for garbage.

    The collector would look several times while they load, and once more as the interpreter ends: a fifth of the start
    of a session, and a tenth of a second at its end.
    """
    gc.disable()
    try:
        yield
    finally:
        leave_alone()
        gc.enable()


def leave_alone() -> None:
    """Let the collector never look at anything again that is there now. Called last of all before a program ends."""
    gc.freeze()
