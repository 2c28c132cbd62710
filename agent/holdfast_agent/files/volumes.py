"""What is on the disks of a restore point: partitions, logical volumes, and the file systems on them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from holdfast_agent.errors import HoldfastError
from holdfast_agent.filesystems import partitions
from holdfast_agent.filesystems.reading import Doubt
from holdfast_agent.filesystems.reading import Volume as Region

from . import lvm, md
from .sources import ExportedDisk, Part, Source, SourceFile, Unreadable, whole
from .systems.btrfs import open_btrfs, set_of
from .systems.ext import open_ext
from .systems.fat import open_fat
from .systems.nodes import FileSystem
from .systems.ntfs import open_ntfs
from .systems.xfs import open_xfs

INSTEAD = "restore its disks and mount them where a kernel knows it, or give such a system an export of them"
"""What to do with what cannot be read here."""

_BTRFS = "btrfs"
_RAID = b"\xfc\x4e\x2b\xa9"
_MOST_VOLUMES = 1024


class Volume(NamedTuple):
    """``device``: how guests call it, as ``vda1``, and by the groups of LVM; ``identity``: its name below
    /dev/disk/by-id, of logical volumes. ``system`` None: it has no files for us, for the reason ``note``. ``doubt``: as
    of a file system."""

    name: str
    device: str
    kind: str
    size_bytes: int
    system: FileSystem | None
    note: str = ""
    doubt: str = ""
    identity: str = ""


class _Found(NamedTuple):
    name: str
    device: str
    source: Source
    identity: str = ""


def volumes(disks: Sequence[ExportedDisk]) -> list[Volume]:
    """All of them, disk by disk, then arrays, then logical volumes. Raises errors of the disks, nothing else."""
    survey = _Survey()
    for number, disk in enumerate(disks):
        survey.take(disk, disk.url, _letters(number))
    for array in md.arrays(survey.members):
        if array.source is None:
            survey.refuse(array.name, array.device, f"RAID {array.level}", 0, array.note)
        else:
            survey.take(array.source, array.name, array.device)
    survey.take_groups()
    return _unique([*_opened(survey.found), *survey.told])


class _Survey:
    """What is found on the way. ``told``: volumes without files for us; ``members``: parts of arrays."""

    def __init__(self) -> None:
        self.found: list[_Found] = []
        self.told: list[Volume] = []
        self.members: list[md.Member] = []
        self._physical: list[lvm.PhysicalVolume] = []

    def refuse(self, name: str, device: str, kind: str, size_bytes: int, note: str) -> None:
        self.told.append(Volume(name, device, kind, size_bytes, None, f"{note}: {INSTEAD}"))

    def take(self, source: Source, name: str, device: str) -> None:
        """A disk, or an array, with all that is on it."""
        try:
            regions = partitions.volumes(whole(source).disk)
        except (Doubt, Unreadable) as doubt:
            self.refuse(name, "", "", source.size_bytes, f"its partition table: {doubt}")
            return
        for region in regions[: _MOST_VOLUMES - len(self.found)]:
            self._sort(_region(source, name, device, region))

    def _sort(self, each: _Found) -> None:
        try:
            member = md.member(each.source)
            physical = lvm.physical_volume(each.source) if member is None else None
        except (Doubt, Unreadable) as doubt:
            self.refuse(each.name, each.device, "LVM or RAID", each.source.size_bytes, str(doubt))
            return
        if member is not None:
            self.members.append(member)
        elif physical is not None:
            self._physical.append(physical)
        else:
            self.found.append(each)

    def take_groups(self) -> None:
        """The logical volumes of all that was taken."""
        try:
            for logical in lvm.logical_volumes(self._physical):
                name = f"{logical.group}-{logical.name}"
                device = f"mapper/{logical.group.replace('-', '--')}-{logical.name.replace('-', '--')}"
                if logical.source is None:
                    self.refuse(name, device, "LVM", logical.size_bytes, logical.note)
                else:
                    self.found.append(_Found(name, device, logical.source, logical.identity))
        except (Doubt, Unreadable) as doubt:
            self.refuse("lvm", "", "LVM", 0, str(doubt))


def _region(source: Source, name: str, device: str, region: Region) -> _Found:
    if not region.number:
        return _Found(name, device, source)
    part = Part(source, region.extent.start, region.extent.length)
    between = "p" if device[-1:].isdigit() else ""
    return _Found(f"{name}.p{region.number}", f"{device}{between}{region.number}", part)


def _letters(number: int) -> str:
    """a … z, aa …: what follows "vd" or "sd" in the guest, if it has its disks in this order."""
    letters = ""
    number += 1
    while number:
        number, place = divmod(number - 1, 26)
        letters = chr(ord("a") + place) + letters
    return letters


def _opened(found: list[_Found]) -> Iterator[Volume]:
    """btrfs may lie on several of them: it is told once, with the first."""
    kinds = [(each, _kind(each.source)) for each in found]
    sets: dict[bytes, list[Source]] = {}
    for each, kind in kinds:
        if kind == _BTRFS:
            sets.setdefault(set_of(SourceFile(each.source)), []).append(each.source)
    for each, kind in kinds:
        parts = [each.source]
        if kind == _BTRFS:
            parts = sets.pop(set_of(SourceFile(each.source)), [])
            if not parts:
                yield Volume(each.name, each.device, kind, each.source.size_bytes, None, "a part of another volume's")
                continue
        yield _open(each, kind, parts)


def _open(each: _Found, kind: str, parts: Sequence[Source]) -> Volume:
    size = sum(part.size_bytes for part in parts)
    opener = _OPENERS.get(kind)
    if opener is None:
        return Volume(each.name, each.device, kind, size, None, _NOTES.get(kind, ""))
    try:
        system = opener([SourceFile(part) for part in parts])
    except (Unreadable, Doubt) as reason:
        return Volume(each.name, each.device, kind, size, None, f"{reason}: {INSTEAD}")
    except HoldfastError:
        raise
    except Exception as error:  # noqa: BLE001 - a library met something that it does not understand
        why = f"it cannot be read ({error or type(error).__name__}): {INSTEAD}"
        return Volume(each.name, each.device, kind, size, None, why)
    return Volume(each.name, each.device, system.kind, size, system, system.note, system.doubt, each.identity)


def _first(open_one: Callable[[Any], FileSystem]) -> Callable[[Sequence[Any]], FileSystem]:
    return lambda files: open_one(files[0])


_OPENERS: dict[str, Callable[[Sequence[Any]], FileSystem]] = {
    "ext": _first(open_ext),
    "XFS": _first(open_xfs),
    "NTFS": _first(open_ntfs),
    "FAT": _first(open_fat),
    _BTRFS: open_btrfs,
}
_NOTES = {
    "LUKS": "the guest encrypted it",
    "BitLocker": "the guest encrypted it",
    "RAID": f"Linux RAID with metadata of an old form cannot be read here: {INSTEAD}",
    "exFAT": f"exFAT cannot be read here: {INSTEAD}",
}
_MAGIC = (
    (1024 + 56, b"\x53\xef", "ext"),
    (0, b"XFSB", "XFS"),
    (3, b"NTFS    ", "NTFS"),
    (65536 + 64, b"_BHRfS_M", _BTRFS),
    (4096 - 10, b"SWAPSPACE2", "swap"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (3, b"-FVE-FS-", "BitLocker"),
    (3, b"EXFAT   ", "exFAT"),
    (4096, _RAID, "RAID"),
    (0, _RAID, "RAID"),
)


def _kind(source: Source) -> str:
    if md.is_old_member(source):
        return "RAID"
    for offset, magic, kind in _MAGIC:
        if source.read(offset, len(magic)) == magic:
            return kind
    return "FAT" if _is_fat(source.read(0, 512)) else ""


def _is_fat(sector: bytes) -> bool:
    if len(sector) < 512 or sector[510:] != b"\x55\xaa" or sector[0] not in (0xEB, 0xE9):
        return False
    return sector[54:59] == b"FAT12" or sector[54:59] == b"FAT16" or sector[82:87] == b"FAT32"


def _unique(volumes: Iterable[Volume]) -> list[Volume]:
    """Their names as one name of a folder each."""
    found: list[Volume] = []
    taken: set[str] = set()
    for volume in volumes:
        plain = re.sub(r"[^\w.@+-]", "_", volume.name)[:100] or "volume"
        name, count = plain, 1
        while name in taken or name in (".", ".."):
            count += 1
            name = f"{plain}~{count}"
        taken.add(name)
        found.append(volume._replace(name=name))
    return found
