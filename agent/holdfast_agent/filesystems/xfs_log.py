"""What the log of an XFS would change: free space on the disk can be believed only where that is nothing.

At the next mount the records between the log's tail and its head are carried out anew. There are none after an
unmount. A file system that was frozen (fsfreeze), or idle for a minute, has "covered" its log: everything is written to
its place, and what would be carried out is the superblock alone. Anything else keeps the volume whole.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from holdfast_agent.model.geometry import Extent

from .crc32c import crc32c
from .reading import Doubt, Volume

_SECTOR = 512
_HEADER_MAGIC = b"\xfe\xed\xba\xbe"
_HEADER_BYTES, _EXTENDED_BYTES = (328, 324), 260  # as systems of 64 and of 32 bits lay it out
_CYCLES_A_HEADER = 64
_LITTLE_ENDIAN = 1
_MOST_RECORD_BYTES = 256 << 10
# Eight buffers are under way at most: nothing further back can be missing from the log.
_WINDOW = 8 * _MOST_RECORD_BYTES // _SECTOR
_MOST_LOG_SECTORS = (2 << 30) // _SECTOR
_TRANSACTION, _LOG = 0x69, 0xAA
_START, _COMMIT, _UNMOUNT = 0x01, 0x02, 0x20
_TRANSACTION_MAGIC, _BUFFER = b"NART", 0x123C
_SUPERBLOCK_SECTOR = 0
_NOT_COVERED = "it was mounted and not frozen, so its log may know better than its trees"


class LogState(NamedTuple):
    """``last_lsn``: of the newest record. ``unmounted``: it is the one that an unmount leaves behind."""

    last_lsn: int
    unmounted: bool


def read_state(volume: Volume, place: Extent, uuid: bytes) -> LogState:
    """Raises :class:`Doubt` where carrying out the log could change more than the superblock, and errors of the disk.

    ``place`` in bytes of the volume; ``uuid``: of the file system that the log belongs to.
    """
    sectors = place.length // _SECTOR
    if not 2 * _WINDOW <= sectors <= _MOST_LOG_SECTORS:
        raise Doubt("its log has a length that is not possible")
    log = _Log(volume, place.start, sectors, uuid)
    head = log.find_head()
    last = log.last_before(head)
    if last.operations == 1 and last.is_unmount():
        return LogState(last.lsn, unmounted=True)
    for record in log.between(last.tail_lsn, head):
        if not record.changes_superblock_only():
            raise Doubt(_NOT_COVERED)
    return LogState(last.lsn, unmounted=False)


class _Record(NamedTuple):
    """``tail_lsn``: the record from which a mount begins. ``data``: before each sector was stamped with its cycle."""

    lsn: int
    tail_lsn: int
    end: int
    operations: int
    data: bytes

    def is_unmount(self) -> bool:
        client, flags = struct.unpack_from(">2B", self.data, 8) if len(self.data) >= 12 else (0, 0)
        return (client, flags) == (_LOG, _UNMOUNT)

    def changes_superblock_only(self) -> bool:
        """Whether each of its operations is understood, and none concerns anything else."""
        regions_to_come = 0
        for client, flags, region in self._regions():
            if client != _TRANSACTION or flags & ~(_START | _COMMIT):
                return False
            if flags:
                if region or regions_to_come:
                    return False
            elif regions_to_come:
                regions_to_come -= 1
            elif region[:4] != _TRANSACTION_MAGIC:
                if len(region) < 16:
                    return False
                kind, regions, _, _, sector = struct.unpack_from("<4Hq", region)
                if (kind, sector) != (_BUFFER, _SUPERBLOCK_SECTOR) or not regions:
                    return False
                regions_to_come = regions - 1
        return not regions_to_come

    def _regions(self) -> Iterator[tuple[int, int, bytes]]:
        at = 0
        for _ in range(self.operations):
            if at + 12 > len(self.data):
                raise Doubt("a record of its log ends too early")
            length, client, flags = struct.unpack_from(">I2B", self.data, at + 4)
            at += 12
            yield client, flags, self.data[at : at + length]
            at += length


class _Log(NamedTuple):
    """A ring of sectors. Each begins with the cycle in which it was written, a header after its magic."""

    volume: Volume
    start: int
    sectors: int
    uuid: bytes

    def find_head(self) -> int:
        """The sector behind the last record; 0 where that ends with the ring.

        Sectors before it are of one cycle, those behind it of the one before, and that without a gap: what was being
        written when the disk was frozen leaves some.
        """
        first, last = self._cycle(0), self._cycle(self.sectors - 1)
        if first == last:
            low = 0
        elif first == last + 1:
            low, high = 1, self.sectors - 1
            while low < high:
                middle = (low + high) // 2
                if self._cycle(middle) == last:
                    high = middle
                else:
                    low = middle + 1
        else:
            raise Doubt("the cycles of its log are not in order")
        before = range(max(0, low - _WINDOW), low)
        behind = range(max(low, self.sectors - _WINDOW), self.sectors) if low < _WINDOW else range(0)
        after = range(low, min(low + _WINDOW, self.sectors))
        if self._cycles(before) - {first} or (self._cycles(behind) | self._cycles(after)) - {last}:
            raise Doubt("its log was being written")
        return low

    def last_before(self, head: int) -> _Record:
        most = _MOST_RECORD_BYTES // _SECTOR + _MOST_RECORD_BYTES // _SECTOR // _CYCLES_A_HEADER
        window = self._read((head - most) % self.sectors, most)
        for back in range(1, most + 1):
            at = (most - back) * _SECTOR
            if window[at : at + 4] == _HEADER_MAGIC:
                record = self.record((head - back) % self.sectors)
                if record.end != head:
                    break
                return record
        raise Doubt("its log does not end with a whole record")

    def between(self, tail_lsn: int, head: int) -> Iterator[_Record]:
        """The records from that one to the head."""
        sector = tail_lsn & 0xFFFFFFFF
        left = (head - sector) % self.sectors
        if not 0 < left <= _WINDOW:
            raise Doubt(_NOT_COVERED)
        record = self.record(sector)
        if record.lsn != tail_lsn:
            raise Doubt("its log has no record where its tail is")
        while True:
            yield record
            left -= (record.end - sector) % self.sectors
            sector = record.end
            if left <= 0:
                break
            record = self.record(sector)
        if left:
            raise Doubt("its log does not end with a whole record")

    def record(self, sector: int) -> _Record:
        """The whole record that begins there. Raises :class:`Doubt` where it is not sound, and not of this place."""
        header = self._read(sector, 1)
        magic, cycle, version, length, lsn, tail_lsn, checksum, _, operations = struct.unpack_from(">4s3I2Q3I", header)
        form, uuid, buffer_bytes = struct.unpack_from(">I16sI", header, 300)
        if (magic, version, form, uuid) != (_HEADER_MAGIC, 2, _LITTLE_ENDIAN, self.uuid):
            raise Doubt("a record of its log is not one of its own")
        if lsn != cycle << 32 | sector or not 0 < length <= _MOST_RECORD_BYTES or length % _SECTOR:
            raise Doubt("a record of its log stands at a wrong place")
        headers = max(1, -(-buffer_bytes // (_CYCLES_A_HEADER * _SECTOR)))
        if not length <= buffer_bytes <= _MOST_RECORD_BYTES or (tail_lsn & 0xFFFFFFFF) >= self.sectors:
            raise Doubt("a record of its log has a length that is not possible")
        raw = self._read(sector, headers + length // _SECTOR)
        stamped = raw[headers * _SECTOR :]
        if not self._is_sound(raw, stamped, checksum, operations):
            raise Doubt("a record of its log has a wrong checksum")
        end = (sector + headers + length // _SECTOR) % self.sectors
        return _Record(lsn, tail_lsn, end, operations, _unstamped(raw, stamped))

    def _is_sound(self, raw: bytes, stamped: bytes, checksum: int, operations: int) -> bool:
        told = checksum.to_bytes(4, "big")
        if told == bytes(4):
            return operations == 1  # mkfs and xfs_repair leave an unmount like this
        extended = -(-len(stamped) // (_CYCLES_A_HEADER * _SECTOR))
        for header_bytes in _HEADER_BYTES:
            found = crc32c(raw[:32] + bytes(4) + raw[36:header_bytes])
            for number in range(1, extended):
                found = crc32c(raw[number * _SECTOR : number * _SECTOR + _EXTENDED_BYTES], found)
            if (crc32c(stamped, found) ^ 0xFFFFFFFF).to_bytes(4, "little") == told:
                return True
        return False

    def _cycle(self, sector: int) -> int:
        return _cycle_of(self._read(sector, 1))

    def _cycles(self, sectors: range) -> set[int]:
        raw = self._read(sectors.start, len(sectors))
        return {_cycle_of(raw[at : at + 8]) for at in range(0, len(raw), _SECTOR)}

    def _read(self, sector: int, count: int) -> bytes:
        """``count`` sectors, from the ring's beginning again behind its end."""
        first = min(count, self.sectors - sector)
        raw = self.volume.read(self.start + sector * _SECTOR, first * _SECTOR)
        return raw + self.volume.read(self.start, (count - first) * _SECTOR) if count > first else raw


def _cycle_of(sector: bytes) -> int:
    place = 4 if sector[:4] == _HEADER_MAGIC else 0
    return int.from_bytes(sector[place : place + 4], "big")


def _unstamped(raw: bytes, stamped: bytes) -> bytes:
    """The data with its own words again, where each sector's first one gave way to the cycle."""
    data = bytearray(stamped)
    for number in range(len(stamped) // _SECTOR):
        header, place = divmod(number, _CYCLES_A_HEADER)
        kept = (header * _SECTOR + 4 if header else 44) + 4 * place
        data[number * _SECTOR : number * _SECTOR + 4] = raw[kept : kept + 4]
    return bytes(data)
