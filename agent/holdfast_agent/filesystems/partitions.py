"""Partition tables: GPT (UEFI specification, 5.3) and MBR with logical partitions."""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise

from holdfast_agent.disks.disk import ReadableDisk
from holdfast_agent.model.geometry import Extent

from .reading import Doubt, Volume

_MBR_SECTOR = 512
_MBR_SIGNATURE = b"\x55\xaa"
_GPT_SIGNATURE = b"EFI PART"
_EXTENDED = (0x05, 0x0F, 0x85)
_PROTECTIVE = 0xEE
_MAX_PARTITIONS = 256


def volumes(disk: ReadableDisk) -> list[Volume]:
    """The partitions of a disk, ascending; the disk itself if it has no table.

    Raises :class:`Doubt` for a table that is not sound, and errors of the disk.
    """
    whole = Volume(disk, Extent(0, disk.size_bytes))
    if not whole.has(510, _MBR_SIGNATURE):
        if any(whole.has(sector, _GPT_SIGNATURE) for sector in (512, 4096)):
            raise Doubt("it has a GPT without the MBR that protects it")
        return [whole]
    entries = _mbr_entries(whole, 0)
    if any(kind == _PROTECTIVE for _, kind, _, _ in entries):
        found = _gpt(whole)
    elif entries:
        found = _mbr(whole, entries)
    else:
        return [whole]  # a boot sector of a file system on the whole disk
    found.sort()
    if any(before.end > after.start for (before, _), (after, _) in pairwise(found)):
        raise Doubt("partitions overlap")
    if found and (found[0][0].start <= 0 or found[-1][0].end > disk.size_bytes):
        raise Doubt("a partition does not lie on the disk")
    return [Volume(disk, extent, number) for extent, number in found]


def has_table(volume: Volume) -> bool:
    """Whether it begins with a partition table, be it sound or not. Raises errors of the disk."""
    return volume.has(510, _MBR_SIGNATURE) and bool(_mbr_entries(volume, 0))


def _mbr_entries(whole: Volume, sector: int) -> list[tuple[int, int, int, int]]:
    """(number from 1 on, type, first sector, sectors) of the entries in use."""
    table = whole.read(sector * _MBR_SECTOR, _MBR_SECTOR)
    if table[510:] != _MBR_SIGNATURE:
        raise Doubt("a partition table has no signature")
    found = [struct.unpack_from("<B3xB3xII", table, 446 + 16 * number) for number in range(4)]
    if any(status not in (0, 0x80) for status, _, _, _ in found):
        return []  # code or text, no table
    numbered = enumerate(found, 1)
    return [(number, kind, start, count) for number, (_, kind, start, count) in numbered if kind and count]


def _mbr(whole: Volume, entries: list[tuple[int, int, int, int]]) -> list[tuple[Extent, int]]:
    """(where, number) of each partition: 1 to 4, and from 5 on the logical ones as they come."""
    primary = [entry for entry in entries if entry[1] not in _EXTENDED]
    partitions = [(_sectors(start, count, _MBR_SECTOR), number) for number, _, start, count in primary]
    logical_number = 5
    for _, kind, first, _ in entries:
        at = first if kind in _EXTENDED else 0
        seen: set[int] = set()
        while at:
            if at in seen or len(seen) > _MAX_PARTITIONS:
                raise Doubt("its logical partitions go round in a circle")
            seen.add(at)
            following = 0
            for _, logical, start, count in _mbr_entries(whole, at):
                if logical in _EXTENDED:
                    following = first + start
                else:
                    partitions.append((_sectors(at + start, count, _MBR_SECTOR), logical_number))
                    logical_number += 1
            at = following
    return partitions


def _gpt(whole: Volume) -> list[tuple[Extent, int]]:
    sector = next((sector for sector in (512, 4096) if whole.has(sector, _GPT_SIGNATURE)), 0)
    if not sector:
        raise Doubt("its GPT is missing")
    header = whole.read(sector, sector)
    revision, size, checksum, own = struct.unpack_from("<III4xQ", header, 8)
    if revision != 0x10000 or not 92 <= size <= sector or own != 1:
        raise Doubt("its GPT has an unknown form")
    if zlib.crc32(header[:16] + bytes(4) + header[20:size]) != checksum:
        raise Doubt("the checksum of its GPT is wrong")
    table, count, entry_bytes, table_checksum = struct.unpack_from("<QIII", header, 72)
    if not 0 < count <= _MAX_PARTITIONS or not 128 <= entry_bytes <= 4096 or entry_bytes % 128:
        raise Doubt("its GPT has an unknown form")
    entries = whole.read(table * sector, count * entry_bytes)
    if zlib.crc32(entries) != table_checksum:
        raise Doubt("the checksum of its GPT's entries is wrong")
    partitions = []
    for number, at in enumerate(range(0, len(entries), entry_bytes), 1):
        if any(entries[at : at + 16]):
            first, last = struct.unpack_from("<QQ", entries, at + 32)
            partitions.append((_sectors(first, last - first + 1, sector), number))
    return partitions


def _sectors(first: int, count: int, sector: int) -> Extent:
    if count <= 0:
        raise Doubt("a partition ends before it begins")
    return Extent(first * sector, count * sector)
