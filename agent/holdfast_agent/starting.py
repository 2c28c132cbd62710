"""A quick start and a quick end of processes that live for seconds, as a mover, a session or a command does."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn


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
        gc.freeze()
        gc.enable()


def end(status: int) -> NoReturn:
    """End this process at once, after what it has written is handed on. Called last of all.

    The interpreter would wait for every thread that a plugin left behind, for ever where one never ends; and it would
    look for garbage among all that a short life has made.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # nobody reads any more, or it was never open
            stream.flush()
    os._exit(status)
