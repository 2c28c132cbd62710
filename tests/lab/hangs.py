"""A test that hangs says where: its report has, besides the stacks of this process, the processes that it waits for."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from types import FrameType

import pytest

from lab.processes import children, command, waits_in


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: object) -> Generator[None, object, object]:
    """Called by pytest-timeout before each test; what is printed later is in the report as what the test said."""
    done = yield
    fail = signal.getsignal(signal.SIGALRM)

    def tell_and_fail(number: int, frame: FrameType | None) -> None:
        print("Processes that run:", *_below(os.getpid()), sep="\n")
        if callable(fail):
            fail(number, frame)

    signal.signal(signal.SIGALRM, tell_and_fail)
    return done


def _below(pid: int, indent: str = "  ") -> Iterator[str]:
    for child in children(pid):
        yield f"{indent}{child} waits in {waits_in(child)}: {command(child)}"
        yield from _below(child, indent + "  ")
