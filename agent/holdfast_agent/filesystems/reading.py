"""Small reads of a disk for those who look for structures in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from holdfast_agent.disks.disk import ReadableDisk
from holdfast_agent.model.geometry import Extent

MAX_READ_BYTES = 64 << 20
"""No structure that is looked at is larger; a length found on a disk never makes us take more memory."""


class Doubt(Exception):
    """Something is not as it must be, so nothing can be left out. The text says what, for people."""


def check_shape(where: str, possible: Iterable[bool]) -> None:
    """Raises :class:`Doubt` unless all is true that must be of what ``where`` tells."""
    if not all(possible):
        raise Doubt(f"{where} tells a shape that is not possible here")


def check_features(*unknown: int) -> None:
    """Raises :class:`Doubt` where a bit is left of a feature that is not known. One number for each field of them."""
    if any(unknown):
        raise Doubt(f"it has unknown features ({', '.join(f'{bits:#x}' for bits in unknown)})")


class Volume(NamedTuple):
    """A partition, or a whole disk that has none (``number`` 0)."""

    disk: ReadableDisk
    extent: Extent
    number: int = 0

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the volume. Raises :class:`Doubt` beyond its end, and errors of the disk."""
        if offset < 0 or not 0 <= length <= min(MAX_READ_BYTES, self.extent.length - offset):
            raise Doubt("it refers to something beyond its end")
        buffer = bytearray(length)
        self.disk.read_into(self.extent.start + offset, memoryview(buffer))
        return bytes(buffer)

    def has(self, offset: int, magic: bytes) -> bool:
        """Whether ``magic`` stands there; no if that is beyond the end."""
        end = offset + len(magic)
        return offset >= 0 and end <= self.extent.length and self.read(offset, len(magic)) == magic
