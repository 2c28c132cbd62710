"""FAT12, FAT16 and FAT32. Times are told as if the guest's clock were UTC: FAT knows no time zones."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from typing import Any

from dissect.fat import FATFS

from holdfast_agent.wire.files import FileKind

from ..attributes import Attribute
from ..sources import Unreadable
from .nodes import Facts, FileSystem, Node, name_of, pieces_of

_LAST = {12: 0xFF8, 16: 0xFFF8, 32: 0xFFFFFF8}
_LOWER_BASE, _LOWER_EXTENSION = 0x08, 0x10


def open_fat(file: Any) -> FileSystem:
    """Raises anything."""
    system = FATFS(file)
    serial = system.volume_id.upper().zfill(8)
    return FileSystem(system.type.name, _label(system), serial, FatNode(system.root, count(1)))


class FatNode:
    """A file has one name here, so each is a node of its own; a folder is known by where it lies."""

    def __init__(self, entry: Any, numbers: Iterator[int]) -> None:
        self.key = ("folder", entry.cluster) if entry.is_directory() else ("file", next(numbers))
        self._numbers = numbers
        self._entry = entry

    def facts(self) -> Facts:
        entry = self._entry
        folder = entry.is_directory()
        try:
            moment = entry.mtime.replace(tzinfo=UTC)
        except ValueError:  # no time was written
            moment = datetime(1980, 1, 1, tzinfo=UTC)
        mode = 0o755 if folder else 0o444 if entry.is_readonly() else 0o644
        return Facts(
            kind=FileKind.FOLDER if folder else FileKind.FILE,
            size=0 if folder else entry.size,
            mtime_ns=int(moment.timestamp()) * 1_000_000_000,
            mode=mode,
        )

    def children(self) -> Iterator[tuple[bytes, Node]]:
        self._place()
        for entry in self._entry.iterdir():
            if not entry.is_volume_id() and entry.name not in (".", ".."):
                yield name_of(_name(entry)), FatNode(entry, self._numbers)

    def target(self) -> bytes:
        raise AssertionError("FAT has no links")

    def data(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        self._place()
        return pieces_of(self._entry.open(), start)

    def attributes(self) -> Iterator[Attribute]:
        return iter(())

    def _place(self) -> None:
        """Where it lies, found by ourselves: the library joins clusters that do not follow each other, and goes round
        in circles. Raises :class:`Unreadable`."""
        entry = self._entry
        if entry._runlist is not None or not entry.cluster:
            return
        table, cluster = entry.fs.fat, entry.cluster
        runs: list[tuple[int, int]] = []
        for _ in range(table.entry_count):
            if not 2 <= cluster < table.entry_count:
                raise Unreadable("one of its clusters is not there")
            if runs and cluster - 2 == sum(runs[-1]):
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((cluster - 2, 1))
            cluster = table.get(cluster)
            if cluster >= _LAST[table.bits_per_entry]:
                break
        else:
            raise Unreadable("its clusters go round in a circle")
        entry._runlist = runs


def _name(entry: Any) -> str:
    """The long name; of a short one the letters as they were written."""
    if entry.ldirents:
        return str(entry.name)
    flags = entry.dirent.DIR_NTRes
    base, dot, extension = str(entry.short_name).partition(".")
    base = base.lower() if flags & _LOWER_BASE else base
    return base + dot + (extension.lower() if flags & _LOWER_EXTENSION else extension)


def _label(system: Any) -> str:
    label = str(system.volume_label).rstrip("\0")
    return label if label != "NO NAME" else ""
