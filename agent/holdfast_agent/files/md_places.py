"""Where Linux RAID puts each chunk of an array: in rows over all members, as copies, or with parity."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from enum import IntEnum

from holdfast_agent.filesystems.reading import Doubt

from .sources import Source


class Layout(IntEnum):
    """Where the parity of a row is, as the kernel numbers it."""

    LEFT_ASYMMETRIC = 0
    RIGHT_ASYMMETRIC = 1
    LEFT_SYMMETRIC = 2
    RIGHT_SYMMETRIC = 3
    PARITY_FIRST = 4
    PARITY_LAST = 5


_ONE_PARITY_ONLY = (Layout.PARITY_FIRST, Layout.PARITY_LAST)


class _Chunks:
    """A source of whole chunks. ``present``: members by their places; each has ``used`` bytes."""

    size_bytes: int

    def __init__(self, present: Mapping[int, Source], disks: int, chunk: int, used: int) -> None:
        self._present = present
        self._disks = disks
        self._chunk = chunk
        self._rows = used // chunk

    def read(self, offset: int, length: int) -> bytes:
        found = []
        length = max(0, min(length, self.size_bytes - offset))
        while length:
            number, inside = divmod(offset, self._chunk)
            data = self._part(number, inside, min(length, self._chunk - inside))
            found.append(data)
            offset += len(data)
            length -= len(data)
        return b"".join(found)

    @abstractmethod
    def _part(self, number: int, inside: int, length: int) -> bytes:
        """Of one chunk."""


class Rows(_Chunks):
    """RAID 10 with near copies: chunk by chunk, each so many times, over the members in turn."""

    def __init__(self, present: Mapping[int, Source], disks: int, chunk: int, used: int, layout: int) -> None:
        """Raises :class:`Doubt`."""
        super().__init__(present, disks, chunk, used)
        near, far = layout & 0xFF, layout >> 8 & 0xFF
        if far != 1 or layout >> 16 or not 0 < near <= disks:
            raise Doubt("its copies are not near each other, which cannot be read here")
        self._copies = near
        self.size_bytes = self._rows * disks // near * chunk
        if any(not self._members(number) for number in range(disks)):  # after which it is the same again
            raise Doubt("all members that have a part of it are not in the restore point")

    def _part(self, number: int, inside: int, length: int) -> bytes:
        member, row = self._members(number)[0]
        return self._present[member].read(row * self._chunk + inside, length)

    def _members(self, number: int) -> list[tuple[int, int]]:
        """(member, row) of the copies that are there."""
        places = (divmod(number * self._copies + copy, self._disks) for copy in range(self._copies))
        return [(member, row) for row, member in places if member in self._present]


class Parity(_Chunks):
    """RAID 4, 5 and 6; one member that is missing is computed from the others."""

    def __init__(
        self, present: Mapping[int, Source], disks: int, chunk: int, used: int, layout: int, parities: int
    ) -> None:
        """``layout``: a :class:`Layout`, or nonsense. Raises :class:`Doubt`."""
        super().__init__(present, disks, chunk, used)
        self._data = disks - parities
        self._parities = parities
        unknown = layout not in Layout.__members__.values()
        if unknown or (parities == 2 and layout in _ONE_PARITY_ONLY) or self._data < 1:
            raise Doubt("its layout is unknown")
        self._layout = Layout(layout)
        if len(present) < disks - 1:
            raise Doubt("more than one of its members are not in the restore point")
        self.size_bytes = self._rows * self._data * chunk

    def _part(self, number: int, inside: int, length: int) -> bytes:
        row, place = divmod(number, self._data)
        parity, member = self._places(row, place)
        offset = row * self._chunk + inside
        if member in self._present:
            return self._present[member].read(offset, length)
        second = (parity + 1) % self._disks if self._parities == 2 else -1
        total = 0
        for each, source in self._present.items():
            if each != second:
                total ^= int.from_bytes(source.read(offset, length), "little")
        return total.to_bytes(length, "little")

    def _places(self, row: int, place: int) -> tuple[int, int]:
        """(member of the parity, member of the data) of a row."""
        last = self._disks - 1
        turned = row % self._disks
        match self._layout:
            case Layout.PARITY_FIRST:
                return 0, place + 1
            case Layout.PARITY_LAST:
                return last, place
            case Layout.LEFT_SYMMETRIC | Layout.LEFT_ASYMMETRIC:
                parity = last - turned
            case _:
                parity = turned
        if self._layout in (Layout.LEFT_SYMMETRIC, Layout.RIGHT_SYMMETRIC):
            return parity, (parity + self._parities + place) % self._disks
        if self._parities == 2 and parity == last:  # the second parity is on the first member
            return parity, place + 1
        return parity, place + self._parities if place >= parity else place
