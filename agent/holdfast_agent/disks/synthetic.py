"""A disk that is made up as it is read: the load of a benchmark where there is no disk to measure with."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from holdfast_agent.model.disk_url import DiskUrl

from .disk import DiskExtent

_STAMP = struct.Struct("<Q16s")
_STAMP_EVERY_BYTES = 1 << 16
_STRETCH_BYTES = 4096


class SyntheticDisk:
    """``synthetic:/BYTES``. Every 64 KiB of it occurs once in the world, and half of each 4 KiB compresses away.

    That is about what the disk of a server does. Making it up costs a copy in memory, no more.
    """

    def __init__(self, url: DiskUrl) -> None:
        self.url = str(url)
        self.size_bytes = int(url.path.removeprefix("/"))
        self._once = os.urandom(16)
        half = _STRETCH_BYTES // 2
        self._pattern = b"".join(os.urandom(half) + bytes(half) for _ in range((1 << 20) // _STRETCH_BYTES))

    def extents(self) -> Iterator[DiskExtent]:
        yield DiskExtent(0, self.size_bytes, data=True)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        size = len(self._pattern)
        done = 0
        while done < len(buffer):
            at = (offset + done) % size
            count = min(size - at, len(buffer) - done)
            buffer[done : done + count] = self._pattern[at : at + count]
            done += count
        first = -offset % _STAMP_EVERY_BYTES
        for place in range(first, len(buffer) - _STAMP.size + 1, _STAMP_EVERY_BYTES):
            _STAMP.pack_into(buffer, place, offset + place, self._once)

    def close(self) -> None:
        """Nothing is open."""
