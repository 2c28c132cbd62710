"""When a source looks for what no file system needs, and that the look never costs a backup."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from holdfast_agent.disks.disk import DiskExtent
from holdfast_agent.errors import DiskUnreadable
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Extent, Geometry
from holdfast_agent.mover.stages import StageClock
from holdfast_agent.mover.unused import Unused, asks_for_unused, find_unused
from holdfast_agent.wire.specs import BackupOrder

GEOMETRY = Geometry(64 << 20, 16)
UNREADABLE = DiskUnreadable(url="lab:disk", offset_bytes=0, length_bytes=512, reason="bad sector")


class Disk:
    """Holds ``content`` and then zeros, or raises what it was made with."""

    url = "lab:disk"
    size_bytes = GEOMETRY.size_bytes

    def __init__(self, content: bytes | Exception) -> None:
        self.content = content

    def extents(self) -> Iterator[DiskExtent]:
        yield DiskExtent(0, self.size_bytes, data=True)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if isinstance(self.content, Exception):
            raise self.content
        part = self.content[offset : offset + len(buffer)]
        buffer[:] = part + bytes(len(buffer) - len(part))

    def close(self) -> None: ...


@pytest.mark.parametrize("error", [UNREADABLE, ValueError("odd")])
def test_a_look_that_fails_leaves_nothing_out(error: Exception) -> None:
    found = find_unused(Disk(error), GEOMETRY, StageClock())
    assert found.runs == ()
    assert "nothing was left out" in found.told and str(error) in found.told


def test_a_disk_without_anything_known_is_kept_with_the_reason() -> None:
    found = find_unused(Disk(b""), GEOMETRY, StageClock())
    assert found == Unused((), "unknown at 0 B is kept whole: it is not of a kind whose free blocks are known")


def test_a_disk_of_many_partitions_is_told_in_a_short_sentence() -> None:
    """An MBR with twelve logical partitions."""
    sectors = {0: [(0x0F, 1000, 90000)]}
    for number in range(12):
        following = [(0x05, 1000 * (number + 1), 1000)] if number < 11 else []
        sectors[1000 * (number + 1)] = [(0x83, 10, 100), *following]
    content = bytearray(13001 * 512)
    for sector, entries in sectors.items():
        for place, (kind, start, count) in enumerate(entries):
            struct.pack_into("<B3xB3xII", content, sector * 512 + 446 + 16 * place, 0, kind, start, count)
        content[sector * 512 + 510 : sector * 512 + 512] = b"\x55\xaa"
    told = find_unused(Disk(bytes(content)), GEOMETRY, StageClock()).told
    assert told.count("is kept whole") == 8
    assert told.endswith("; 4 more volumes")


@pytest.mark.parametrize("mode", list(ChangeMode))
def test_only_a_disk_that_is_asked_itself_is_looked_at(mode: ChangeMode) -> None:
    order = BackupOrder(geometry=GEOMETRY, disks=(), mode=mode, skip_unused=True)
    assert asks_for_unused(order) is (mode in (ChangeMode.ALLOCATION, ChangeMode.DIGEST))
    told = BackupOrder(geometry=GEOMETRY, disks=(), mode=mode, skip_unused=True, extents=(Extent(0, 1),))
    assert not asks_for_unused(told)
    assert not asks_for_unused(BackupOrder(geometry=GEOMETRY, disks=(), mode=mode))
