"""Transactions that a lost connection undid are run again."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from .errors import ConnectionCut

_AGAIN_S = 30.0
"""As long as a busy database is waited for. Connections that are cut each time so long are no accident."""

C = TypeVar("C")
P = ParamSpec("P")
R = TypeVar("R")


def runs_again(kind: type[C]) -> type[C]:
    """For a class whose public methods are one transaction each: :class:`ConnectionCut` has undone it, so it is run
    again, by the caller's thread and at once. Generators are left alone: what they gave cannot be taken back."""
    for name, member in list(vars(kind).items()):
        if inspect.isfunction(member) and not name.startswith("_") and not inspect.isgeneratorfunction(member):
            setattr(kind, name, run_again(member))
    return kind


def run_again(method: Callable[P, R]) -> Callable[P, R]:
    """For one such method or function."""

    @functools.wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        give_up = None
        while True:
            try:
                return method(*args, **kwargs)
            except ConnectionCut:
                give_up = give_up or time.monotonic() + _AGAIN_S
                if time.monotonic() >= give_up:
                    raise

    return run
