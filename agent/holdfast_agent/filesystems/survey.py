"""One look at a whole disk: what of it nobody needs, and why the rest is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from holdfast_agent.disks.disk import ReadableDisk
from holdfast_agent.model.geometry import MOST_EXTENTS, Extent

from . import ext4, ntfs, partitions, swap, xfs
from .reading import Doubt, Volume

_KNOWN: tuple[tuple[str, Callable[[Volume], bool], Callable[[Volume], Iterator[Extent]]], ...] = (
    ("ext4", ext4.is_ext4, ext4.unused),
    ("XFS", xfs.is_xfs, xfs.unused),
    ("NTFS", ntfs.is_ntfs, ntfs.unused),
    ("swap", swap.is_swap, swap.unused),
)
# Signatures of what else a volume may be. One of them beside a known one means that one of the two is a leftover.
_OTHERS = (
    (0, b"LUKS\xba\xbe", "LUKS"),
    (65600, b"_BHRfS_M", "Btrfs"),
    *((sector * 512, b"LABELONE", "LVM") for sector in range(4)),
    (4096, b"\xfc\x4e\x2b\xa9", "RAID"),
    (0, b"\xfc\x4e\x2b\xa9", "RAID"),
)
_RAID = b"\xfc\x4e\x2b\xa9"


class Finding(NamedTuple):
    """A volume. ``unused_bytes`` 0 with a ``doubt``: all of it is kept, for that reason. For the session's log."""

    extent: Extent
    kind: str
    unused_bytes: int
    doubt: str = ""


class Survey(NamedTuple):
    """``unused``: ascending and merged, in whole blocks of the grain that was asked for."""

    unused: list[Extent]
    findings: list[Finding]


def survey(disk: ReadableDisk, grain_bytes: int) -> Survey:
    """Look for what need not be read. ``disk`` must hold still: a snapshot, or a disk that nobody writes to.

    ``grain_bytes``: the blocks in which the disk is stored; only whole ones can be left out, in ``MOST_EXTENTS`` pieces
    at most. Called once before a transfer; costs some reads for each GiB. Raises errors of the
    disk, nothing else: a disk that is not understood is all used.
    """
    try:
        volumes = partitions.volumes(disk)
    except Doubt as doubt:
        return Survey([], [Finding(Extent(0, disk.size_bytes), "disk", 0, str(doubt))])
    unused: list[Extent] = []
    findings = []
    for volume in volumes:
        kind, found, reason = _look(volume, grain_bytes, MOST_EXTENTS - len(unused))
        unused += found
        findings.append(Finding(volume.extent, kind, sum(extent.length for extent in found), reason))
    return Survey(list(_merged(unused)), findings)


def _look(volume: Volume, grain_bytes: int, most: int) -> tuple[str, list[Extent], str]:
    """(kind, at most so many unused extents of whole blocks on the disk, doubt)."""
    known = [(kind, unused) for kind, is_it, unused in _KNOWN if is_it(volume)]
    others = sorted({name for offset, magic, name in _OTHERS if volume.has(offset, magic)} | _raid_at_end(volume))
    if not known:
        return " or ".join(others) or "unknown", [], "it is not of a kind whose free blocks are known"
    kind, unused = known[0]
    if len(known) + len(others) > 1:
        return kind, [], f"it has the marks of {', '.join([kind for kind, _ in known] + others)} at once"
    found: list[Extent] = []
    try:
        # To the end, also when there is no more room: what it checks last may be what is wrong.
        for extent in _whole_blocks(_merged(unused(volume)), volume.extent.start, grain_bytes):
            if len(found) < most:
                found.append(extent)
    except Doubt as doubt:
        return kind, [], str(doubt)
    return kind, found, ""


def _raid_at_end(volume: Volume) -> set[str]:
    """A member of a Linux RAID with its superblock at the end (0.90, 1.0) looks like the file system on the array."""
    size = volume.extent.length
    places = (size // 65536 * 65536 - 65536, (size - 8192) // 4096 * 4096)
    return {"RAID"} if any(volume.has(place, _RAID) for place in places) else set()


def _merged(extents: Iterable[Extent]) -> Iterator[Extent]:
    last: Extent | None = None
    for extent in extents:
        if last is not None and extent.start == last.end:
            last = Extent(last.start, last.length + extent.length)
            continue
        if last is not None and last.length:
            yield last
        last = extent
    if last is not None and last.length:
        yield last


def _whole_blocks(extents: Iterable[Extent], offset: int, grain: int) -> Iterator[Extent]:
    for extent in extents:
        start = -(-(offset + extent.start) // grain) * grain
        end = (offset + extent.end) // grain * grain
        if end > start:
            yield Extent(start, end - start)
