"""NTFS: free clusters by its own bitmap. Facts: https://flatcap.github.io/linux-ntfs/ntfs/ .

It has no checksums, so that what is told twice is compared: the boot sector and its copy, the first file records and
theirs, and the bitmap with the place of every file. Believed only where nothing is left to be done when it is mounted:
while Windows runs, sleeps or is shut down "fast", part of it is in a log or in memory, and the whole volume is kept.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from holdfast_agent.model.geometry import Extent

from .ntfs_records import (
    FILE_NAME_SPACE,
    Attribute,
    attributes,
    is_in_use,
    places,
    protected,
    read_all,
    read_pieces,
    the_one,
)
from .reading import Doubt, Volume, check_shape

_MFT, _MIRROR, _LOG, _VOLUME, _ROOT, _BITMAP = 0, 1, 2, 3, 5, 6
_MIRRORED = 4
_MOST_RECORDS = 1 << 19
_ATTRIBUTE_LIST, _VOLUME_INFORMATION, _DATA, _INDEX_ROOT, _INDEX_ALLOCATION = 0x20, 0x70, 0x80, 0x90, 0xA0
_NO_CLIENT, _CLEANLY_DISMOUNTED = 0xFFFF, 0x2
_RESTART_PAGE = 4096
_RESTART, _INDEX = b"RSTR", b"INDX"
_SLEEPING = "hiberfil.sys".encode(FILE_NAME_SPACE)
_PIECE_BYTES = 1 << 20
_FREE = re.compile(rb"\x00+")


def is_ntfs(volume: Volume) -> bool:
    return volume.has(3, b"NTFS    ")


def unused(volume: Volume) -> Iterator[Extent]:
    """Free clusters in bytes of the volume, ascending, eight at a time: the rest of a run is told as used.

    Raises :class:`Doubt`, also behind some extents, which do not count then, and errors of the disk.
    """
    shape, records = _dismounted(volume)
    bitmap = read_all(volume, the_one(records.file(_BITMAP), _DATA), shape.cluster_bytes)
    if 8 * len(bitmap) < shape.clusters:
        raise Doubt("its bitmap ends too early")
    for start, count in records.places_of_files():
        # Only whole bytes of zeros are left out.
        if start + count > shape.clusters or bitmap.find(b"\0", start // 8, -(-(start + count) // 8)) >= 0:
            raise Doubt("its bitmap calls part of a file free")
    for run in _FREE.finditer(bitmap):
        start, end = 8 * run.start(), min(8 * run.end(), shape.clusters)
        if start < end:
            yield Extent(start * shape.cluster_bytes, (end - start) * shape.cluster_bytes)


def check_dismounted(volume: Volume) -> None:
    """Raises :class:`Doubt` where a log or a hibernation file may know more than the volume, and errors of the disk."""
    _dismounted(volume)


class _Shape(NamedTuple):
    cluster_bytes: int
    clusters: int
    record_bytes: int
    index_bytes: int
    mft: int
    mirror: int


def _shape(volume: Volume) -> _Shape:
    raw = volume.read(0, 512)
    sector_bytes, factor, *must_be_zero = struct.unpack_from("<HB3H", raw, 11)
    sectors, mft, mirror, record, index = struct.unpack_from("<3Qb3xb", raw, 40)
    sectors_a_cluster = factor if factor <= 0x80 else 1 << min(256 - factor, 32)
    cluster_bytes = sector_bytes * sectors_a_cluster
    record_bytes, index_bytes = (1 << min(-each, 32) if each < 0 else each * cluster_bytes for each in (record, index))
    possible = (
        raw[510:] == b"\x55\xaa" and not any(must_be_zero),
        sector_bytes in (512, 1024, 2048, 4096),
        _is_power(sectors_a_cluster) and cluster_bytes <= 2 << 20,
        record_bytes in (1024, 4096) and _is_power(index_bytes) and 1024 <= index_bytes <= 65536,
        0 < sectors <= volume.extent.length // max(sector_bytes, 1),
    )
    check_shape("its boot sector", possible)
    if (sectors + 1) * sector_bytes > volume.extent.length or volume.read(sectors * sector_bytes, 512) != raw:
        raise Doubt("the copy of its boot sector is not the same")
    return _Shape(cluster_bytes, sectors // sectors_a_cluster, record_bytes, index_bytes, mft, mirror)


def _is_power(number: int) -> bool:
    return number > 0 and not number & (number - 1)


class _Records:
    """The first file records, which describe the file system itself."""

    def __init__(self, volume: Volume, shape: _Shape) -> None:
        self._volume = volume
        self._shape = shape
        self._mft = shape.mft * shape.cluster_bytes
        (first, count), *_ = the_one(self.file(_MFT), _DATA).runs or ((None, 0),)
        if first != shape.mft or count * shape.cluster_bytes < 16 * shape.record_bytes:
            raise Doubt("its file records do not begin where its boot sector says")

    def file(self, number: int) -> list[Attribute]:
        """Of one of the first 16, which are in one run."""
        return attributes(self._record(self._mft, number), number)

    def compare_mirror(self) -> None:
        """What Windows keeps twice because all else hangs on it."""
        there = self._shape.mirror * self._shape.cluster_bytes
        told = places(the_one(self.file(_MIRROR), _DATA), self._shape.cluster_bytes)
        if [extent.start for extent in told] != [there]:
            raise Doubt("the copies of its file records are not where its boot sector says")
        for number in range(_MIRRORED):
            if self._record(self._mft, number) != self._record(there, number):
                raise Doubt(f"the copy of its file record {number} is not the same")

    def places_of_files(self) -> Iterator[tuple[int, int]]:
        """(first cluster, number of them) of all that lies outside of a file record."""
        table, size = the_one(self.file(_MFT), _DATA), self._shape.record_bytes
        if table.initialised_bytes % size:
            raise Doubt("its file records end in the middle of one")
        number = 0
        for piece in read_pieces(self._volume, table, self._shape.cluster_bytes, _PIECE_BYTES, _MOST_RECORDS * size):
            for at in range(0, len(piece), size):
                raw = piece[at : at + size]
                if is_in_use(raw):
                    for attribute in attributes(protected(raw, b"FILE"), number):
                        yield from ((first, count) for first, count in attribute.runs if first is not None)
                number += 1

    def _record(self, start: int, number: int) -> bytes:
        size = self._shape.record_bytes
        return protected(self._volume.read(start + number * size, size), b"FILE")


def _dismounted(volume: Volume) -> tuple[_Shape, _Records]:
    shape = _shape(volume)
    records = _Records(volume, shape)
    records.compare_mirror()
    _check_dismounted(volume, shape, records)
    return shape, records


def _check_dismounted(volume: Volume, shape: _Shape, records: _Records) -> None:
    major, minor, flags = struct.unpack_from(
        "<2BH", the_one(records.file(_VOLUME), _VOLUME_INFORMATION).value.ljust(12), 8
    )
    if (major, minor) != (3, 1):
        raise Doubt(f"it is of the unknown version {major}.{minor}")
    if flags:
        raise Doubt(f"it is marked as to be checked, or as being changed ({flags:#x})")
    _check_log(read_pieces(volume, the_one(records.file(_LOG), _DATA), shape.cluster_bytes, _PIECE_BYTES))
    _check_awake(volume, shape, records)


def _check_log(pieces: Iterator[bytes]) -> None:
    """Windows leaves two restart pages without a client; drivers that keep no log fill it with ones."""
    first = next(pieces, b"")
    if len(first) < 2 * _RESTART_PAGE:
        raise Doubt("it has no log")
    if first[:4] != _RESTART and all(piece.count(0xFF) == len(piece) for piece in chain([first], pieces)):
        return
    states = []
    for at in (0, _RESTART_PAGE):
        page = protected(first[at : at + _RESTART_PAGE], _RESTART)
        page_bytes, _, area, minor, major = struct.unpack_from("<2IH2h", page, 16)
        if (page_bytes, major, minor) != (_RESTART_PAGE, 1, 1) or area + 16 > _RESTART_PAGE:
            raise Doubt("its log is of an unknown form, as while Windows runs or after its fast shut-down")
        lsn, _, _, clients, state = struct.unpack_from("<Q4H", page, area)
        states.append((lsn, clients == _NO_CLIENT or bool(state & _CLEANLY_DISMOUNTED)))
    newest = max(lsn for lsn, _ in states)
    if not all(clean for lsn, clean in states if lsn == newest):
        raise Doubt("it was not dismounted, so its log may know better than its bitmap")


def _check_awake(volume: Volume, shape: _Shape, records: _Records) -> None:
    """A Windows that sleeps has the rest of the file system in ``hiberfil.sys``; that it is there is enough."""
    root = records.file(_ROOT)
    if any(each.kind == _ATTRIBUTE_LIST for each in root):
        raise Doubt("its root folder is in more pieces than one record tells")
    parts: Iterable[bytes] = [the_one(root, _INDEX_ROOT, "$I30").value]
    if any(each.kind == _INDEX_ALLOCATION for each in root):
        blocks = the_one(root, _INDEX_ALLOCATION, "$I30")
        in_use = read_pieces(volume, blocks, shape.cluster_bytes, shape.index_bytes)
        parts = chain(parts, (protected(block, _INDEX) for block in in_use if block[:4] == _INDEX))
    if any(_SLEEPING in part.lower() for part in parts):
        raise Doubt("it has a hiberfil.sys, in which part of it may lie")
