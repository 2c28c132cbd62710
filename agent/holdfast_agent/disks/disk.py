"""What a disk is to a mover. Every backend passes ``tests/lab/disk_suite.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

from holdfast_agent.errors import ChangeTrackingLost


class DiskExtent(NamedTuple):
    """``[start, start + length)`` in bytes; ``data`` is False only where the disk is known to read as zeros."""

    start: int
    length: int
    data: bool


class ReadableDisk(Protocol):
    """An open disk. Closed exactly once by whoever opened it, after all reads have returned."""

    url: str
    size_bytes: int

    def extents(self) -> Iterator[DiskExtent]:
        """The allocation of the whole disk: contiguous, ascending, from 0 to ``size_bytes``, neighbours may be alike.

        A backend that cannot tell says one extent of data. Called by one thread, beside reads in others. Costs by the
        number of extents, not by the size. Raises :class:`DiskUnreadable`.
        """

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes from ``offset`` on. Thread-safe; blocks.

        Asked only for ranges inside ``[0, size_bytes)``. Raises :class:`DiskShrunk` if the disk ends before the
        range does, :class:`DiskUnreadable` (retryable) with the place if the storage reports an error.
        """

    def close(self) -> None:
        """Release everything, processes included. Idempotent, never raises."""


@runtime_checkable
class ChangeTrackingDisk(ReadableDisk, Protocol):
    """A disk that also knows what was written to it since the moment that its URL's ``bitmap`` stands for."""

    def changed_extents(self) -> Iterator[DiskExtent]:
        """See :func:`changed_extents`."""


def changed_extents(disk: ReadableDisk) -> Iterator[DiskExtent]:
    """What changed on ``disk``: ascending, without overlaps, alike neighbours merged; gaps are unchanged.

    An extent with ``data=False`` was written and reads as zeros now (discarded, mostly): it needs no reading. Asked of
    an NBD export whose URL names a bitmap (``nbd+unix:/socket?export=disk&bitmap=name``), to the end of the disk, in
    bounded memory. Called by one thread, beside reads in others; may be walked again.

    Raises :class:`ChangeTrackingLost`, before the first extent, where there is no such bitmap or the disk tracks no
    changes: the disk stays open and readable, so that the caller can fall to the next change mode. Raises
    :class:`DiskUnreadable` (retryable) if the storage fails.
    """
    if not isinstance(disk, ChangeTrackingDisk):
        raise ChangeTrackingLost(reason=f"{disk.url} tracks no changes")
    return disk.changed_extents()


class WritableDisk(Protocol):
    """A disk being restored. It ends with ``finish`` or ``abort``; until ``finish`` no new disk is visible."""

    url: str

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of ``data`` at ``offset``. Thread-safe; blocks. Raises :class:`DiskUnwritable`."""

    def write_zeros(self, offset: int, length: int) -> None:
        """Make this range read as zeros, as a hole where the storage can.

        Thread-safe; ranges of different calls do not overlap. Raises :class:`DiskUnwritable`.
        """

    def finish(self) -> None:
        """Make everything durable and, for a new file, give it its name.

        Raises :class:`DiskUnwritable`, :class:`DiskExists` if the name was taken meanwhile; the file is gone then.
        """

    def abort(self) -> None:
        """Give up: a new file vanishes, an existing disk stays as it is now. Idempotent, never raises.

        Does nothing after :meth:`finish`.
        """


@runtime_checkable
class RewritableDisk(WritableDisk, Protocol):
    """A disk that was there before: what is on it can be looked at, so that only what differs need be written."""

    now: ReadableDisk
    """The disk as it is, writes that have returned included. Closed with its target, and by nobody else."""


@runtime_checkable
class ReservingDisk(WritableDisk, Protocol):
    """A disk that does better when it knows beforehand what will be written."""

    def reserve(self, offset: int, length: int) -> None:
        """All of this range will be written: get its space now, in one piece where that can be had.

        Thread-safe, also beside writes to the range. Raises :class:`DiskUnwritable` where there is not enough.
        """
