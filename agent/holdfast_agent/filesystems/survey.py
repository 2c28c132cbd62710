"""One look at a whole disk: what of it nobody needs, and why the rest is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from holdfast_agent.disks.disk import ReadableDisk
from holdfast_agent.model.geometry import MOST_EXTENTS, Extent

from . import ext4, ntfs, partitions, swap, xfs
from .reading import Doubt, Volume
from .signatures import marks

_KNOWN: tuple[tuple[str, Callable[[Volume], bool], Callable[[Volume], Iterator[Extent]]], ...] = (
    ("ext4", ext4.is_ext4, ext4.unused),
    ("XFS", xfs.is_xfs, xfs.unused),
    ("NTFS", ntfs.is_ntfs, ntfs.unused),
    ("swap", swap.is_swap, swap.unused),
)


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
        _check_table(disk, volumes)
    except Doubt as doubt:
        return Survey([], [Finding(Extent(0, disk.size_bytes), "disk", 0, str(doubt))])
    unused: list[Extent] = []
    findings = []
    for volume in volumes:
        kind, found, reason = _look(volume, grain_bytes, MOST_EXTENTS - len(unused))
        unused += found
        findings.append(Finding(volume.extent, kind, sum(extent.length for extent in found), reason))
    return Survey(list(_merged(unused)), findings)


def _check_table(disk: ReadableDisk, volumes: list[Volume]) -> None:
    """Raises :class:`Doubt` where the partitions may be leftovers: of a disk that is used as a whole now."""
    if not any(volume.number for volume in volumes):
        return
    whole = Volume(disk, Extent(0, disk.size_bytes))
    found = marks(whole) | {kind for kind, is_it, _ in _KNOWN if is_it(whole)}
    if found:
        raise Doubt(f"it has the marks of {', '.join(sorted(found))} beside a partition table")


def _look(volume: Volume, grain_bytes: int, most: int) -> tuple[str, list[Extent], str]:
    """(kind, at most so many unused extents of whole blocks on the disk, doubt)."""
    known = [(kind, unused) for kind, is_it, unused in _KNOWN if is_it(volume)]
    others = sorted(marks(volume))
    if volume.number and partitions.has_table(volume):  # the disk of a guest in the guest
        others.append("a partition table")
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
