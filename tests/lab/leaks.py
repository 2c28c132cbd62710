"""A test that fails lets go of what it had at its own end, and says itself which programs it has left behind.

A plugin of pytest. The traceback of a failure holds all that the test had until the next one is called: files and
sockets stay open, and what Python says of a program that nobody has waited for would fail that next test.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import sys
from collections.abc import Generator, Iterator

import pytest

_LEFT = re.compile(r"subprocess (\d+) is still running")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, object, object]:
    """Called around the end of a test's fixtures."""
    try:
        return (yield)
    finally:
        if hasattr(sys, "last_value"):  # until the next test is called: the failure of this one
            with _complaints() as told:
                del sys.last_type, sys.last_value, sys.last_traceback
                gc.collect()
            for pid in map(int, _LEFT.findall(" ".join(told))):
                os.kill(pid, signal.SIGKILL)  # nobody has waited for it, so that the number is still its own
                os.waitpid(pid, 0)
            assert not told, f"left behind: {', '.join(told)}"


@contextlib.contextmanager
def _complaints() -> Iterator[list[str]]:
    """What Python says meanwhile of objects that are thrown away."""
    told: list[str] = []
    before, sys.unraisablehook = sys.unraisablehook, lambda each: told.append(str(each.exc_value))
    try:
        yield told
    finally:
        sys.unraisablehook = before
