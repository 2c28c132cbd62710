"""What the ways into a guest have in common: programs can be run there, and files put there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class Finished(msgspec.Struct, frozen=True):
    """A program that has ended. ``code`` is its exit code, or the negative number of the signal that ended it."""

    code: int
    output: str
    errors: str = ""


class InGuest(Protocol):
    """One guest, reached somehow."""

    def run(self, command: Sequence[str], timeout_s: float) -> Finished:
        """Run a program to its end and return what it printed. Raises a ``PlatformError`` when it takes longer."""
        ...

    def put(self, path: str, data: bytes) -> None:
        """Make or replace a file. Raises a ``PlatformError``."""
        ...
