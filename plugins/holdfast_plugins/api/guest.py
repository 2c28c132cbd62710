"""The protocol of guest processors."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from .values import VmInfo


class ConsistencyLevel(StrEnum):
    """A point's data is as after a power cut, has clean file systems, or has applications at rest."""

    CRASH = "crash"
    FILE_SYSTEM = "file-system"
    APPLICATION = "application"


class FreezeHandle(Protocol):
    """A quiesced guest. It has a deadline of its own and thaws by itself when nobody does in time."""

    @property
    def consistency(self) -> ConsistencyLevel:
        """What was achieved."""
        ...

    def thaw(self) -> None:
        """Let the guest go on. Idempotent. Called at once after the snapshot, on every path.

        Raises ``GuestProcessingFailed`` when the guest was thawed before (by the deadline: the snapshot is then
        only crash-consistent), or when a post-thaw action failed; the guest runs in either case.
        """
        ...


class GuestProcessor(Protocol):
    """Quiesces guests of one job. Made by the registered factory with the job's guest options."""

    def freeze(self, vm: VmInfo, deadline_s: float) -> FreezeHandle:
        """Quiesce the guest for at most ``deadline_s``.

        On an error the guest is thawed before this returns. Raises ``GuestProcessingFailed``.
        """
        ...

    def close(self) -> None:
        """Called once, last. Must not raise; removes anything deployed into guests."""
        ...
