"""Large disks of which only what a survey looks at is kept, so that hostile edits of them hit what matters."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from holdfast_agent.disks.disk import DiskExtent, ReadableDisk
from holdfast_agent.disks.open import open_disk
from holdfast_agent.filesystems.crc32c import crc32c
from holdfast_agent.filesystems.survey import survey

from .disks import host_for
from .tools import require_tool

SECTOR = 512
MIB = 1 << 20


@dataclass(frozen=True)
class Sample:
    """``kept``: numbers of the sectors whose content ``data`` is; ``ones``: what is all ones, in bytes, half-open."""

    size_bytes: int
    kept: tuple[int, ...]
    ones: tuple[tuple[int, int], ...]
    data: bytes = field(repr=False)

    def disk(self, data: bytes) -> SparseDisk:
        """The disk with other data in the sectors that are kept."""
        return SparseDisk(self, data)


class SparseDisk:
    url = "file:/disk"

    def __init__(self, sample: Sample, data: bytes) -> None:
        self._sample = sample
        self._data = data
        self.size_bytes = sample.size_bytes

    def extents(self) -> Iterator[DiskExtent]:
        yield DiskExtent(0, self.size_bytes, True)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        assert 0 <= offset <= end <= self.size_bytes
        buffer[:] = bytes(len(buffer))
        for start, stop in self._sample.ones:
            if start < end and offset < stop:
                first, last = max(start, offset) - offset, min(stop, end) - offset
                buffer[first:last] = b"\xff" * (last - first)
        kept = self._sample.kept
        for place in range(bisect_left(kept, offset // SECTOR), bisect_left(kept, -(-end // SECTOR))):
            raw = self._data[place * SECTOR : (place + 1) * SECTOR].ljust(SECTOR, b"\0")
            at = kept[place] * SECTOR - offset
            part = raw[max(0, -at) : len(buffer) - at]
            buffer[max(0, at) : max(0, at) + len(part)] = part

    def close(self) -> None:
        pass


class _Spy:
    """Notes which sectors are read."""

    def __init__(self, disk: ReadableDisk) -> None:
        self._disk = disk
        self.url, self.size_bytes = disk.url, disk.size_bytes
        self.sectors: set[int] = set()

    def extents(self) -> Iterator[DiskExtent]:
        return self._disk.extents()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.sectors.update(range(offset // SECTOR, -(-(offset + len(buffer)) // SECTOR)))
        self._disk.read_into(offset, buffer)

    def close(self) -> None:
        self._disk.close()


def condensed(image: Path) -> Sample:
    with closing(open_disk(f"file:{image}", host_for(image.parent))) as disk:
        spy = _Spy(disk)
        assert survey(spy, 4096).unused
        size_bytes = disk.size_bytes
    kept: list[int] = []
    ones: list[tuple[int, int]] = []
    data = []
    with image.open("rb") as file:
        for number in sorted(spy.sectors):
            file.seek(number * SECTOR)
            raw = file.read(SECTOR)
            if raw == b"\xff" * SECTOR:
                joined = bool(ones) and ones[-1][1] == number * SECTOR
                ones.append((ones.pop()[0] if joined else number * SECTOR, (number + 1) * SECTOR))
            elif any(raw):
                kept.append(number)
                data.append(raw)
    return Sample(size_bytes, tuple(kept), tuple(ones), b"".join(data))


@functools.cache
def xfs() -> Sample:
    return _made(304 * MIB, require_tool("mkfs.xfs", "xfsprogs"), "-q")


@functools.cache
def ntfs() -> Sample:
    return _made(8 * MIB, require_tool("mkntfs", "ntfs-3g"), "--quiet", "--fast", "--force")


def _made(size_bytes: int, *command: str) -> Sample:
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "disk"
        with image.open("wb") as file:
            file.truncate(size_bytes)
        subprocess.run([*command, image], check=True, capture_output=True)
        return condensed(image)


def mend_xfs(data: bytes) -> bytes:
    """The checksums of superblock, allocation groups, trees and log put right after an edit."""
    sample = xfs()
    mended = bytearray(data)
    disk = sample.disk(data)
    for place, sector in enumerate(sample.kept):
        at = place * SECTOR
        magic = data[at : at + 4]
        for kinds, length, checksum in ((b"XFSB", 512, 224), (b"XAGF", 512, 216), (b"AB3B AB3C", 4096, 52)):
            if len(magic) == 4 and magic in kinds.split() and at + SECTOR <= len(data):
                raw = bytearray(length)
                disk.read_into(sector * SECTOR, memoryview(raw))
                raw[checksum : checksum + 4] = bytes(4)
                mended[at + checksum : at + checksum + 4] = (crc32c(bytes(raw)) ^ 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(mended)
