"""Pairs of steps that Ctrl-C does not come between."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C waits until the block has ended, which then raises ``KeyboardInterrupt`` in the place of its result.

    For what would be half done otherwise, such as a repository that exists while nobody keeps its key. The block must
    be short or bounded by time-outs, and must ask nobody anything. An error of the block itself goes before.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    interrupts: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupts:
        raise KeyboardInterrupt
