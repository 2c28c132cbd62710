"""Requests that keep to an export's block sizes, whatever range is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .negotiation import Export

PIECE_BYTES = 512 << 10
"""Of data in one request. A block of a mover makes two: a server reads one while the other is on its way (measured
against qemu-nbd and nbdkit: 128 and 256 KiB and 1 MiB are slower)."""


class Piece(NamedTuple):
    """``[start, end)`` of the export, within the limits; ``[skip, skip + length)`` of it was asked for, which begins at
    ``at`` of the caller's buffer."""

    start: int
    end: int
    skip: int
    length: int
    at: int

    @property
    def whole(self) -> bool:
        return self.length == self.end - self.start


def pieces(export: Export, offset: int, length: int) -> Iterator[Piece]:
    """Cut a range at multiples of the minimum; only its first and last piece may hold more than was asked for."""
    minimum = export.minimum_bytes
    step = max(minimum, min(PIECE_BYTES, export.maximum_bytes) // minimum * minimum)
    end = offset + length
    at = offset
    while at < end:
        start = at // minimum * minimum
        if start < at or end - at < minimum:
            stop = start + minimum
        else:
            stop = start + min(step, (end - at) // minimum * minimum)
        stop = min(stop, export.size_bytes)
        taken = min(stop, end) - at
        yield Piece(start, stop, at - start, taken, at - offset)
        at += taken
