"""NTFS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dissect.ntfs import NTFS
from dissect.ntfs.c_ntfs import ATTRIBUTE_TYPE_CODE, FILE_NAME_DOS
from dissect.ntfs.util import segment_reference

from holdfast_agent.filesystems.ntfs import check_dismounted
from holdfast_agent.filesystems.reading import Doubt
from holdfast_agent.wire.files import FileKind

from ..attributes import MOST_VALUE_BYTES, Attribute
from ..sources import SourceFile, Unreadable, whole
from .nodes import Facts, FileSystem, Node, name_of, pieces_of

_FIRST_OF_USERS = 24  # records before it are the file system's own ($MFT and so on)
_ROOT = 5
_IN_USE = 1
_ENCRYPTED, _READ_ONLY = 0x4000, 0x1
_SYMLINK, _JUNCTION = 0xA000000C, 0xA0000003
_COMPRESSED, _ENCRYPTED_STREAM = 0x00FF, 0x4000


def open_ntfs(file: SourceFile) -> FileSystem:
    """Raises anything. That Windows was running is a note and no doubt: when it is frozen it writes out what it knows,
    and leaves the volume as one that is in use."""
    system = NTFS(file)
    serial = f"{system.serial:016X}" if system.serial else ""
    note = ""
    try:
        check_dismounted(whole(file.source))
    except Doubt as doubt:
        note = f"Windows may have known of changes that are not read here ({doubt})"
    return FileSystem("NTFS", system.volume_name or "", serial, NtfsNode(system.mft.get(_ROOT)), note)


class NtfsNode:
    def __init__(self, record: Any) -> None:
        self.key = record.segment
        self._record = record

    def facts(self) -> Facts:
        record = self._record
        information = record.attributes.STANDARD_INFORMATION[0]
        names = {name.file_name for name in record.attributes.FILE_NAME if name.flags != FILE_NAME_DOS}
        kind = FileKind.FOLDER if record.is_dir() else FileKind.FILE
        if self._reparse_tag() in (_SYMLINK, _JUNCTION):
            kind = FileKind.LINK
        read_only = 0o222 if information.file_attributes & _READ_ONLY and kind is FileKind.FILE else 0
        return Facts(
            kind=kind,
            size=record.size() if kind is FileKind.FILE and record.has_stream() else 0,
            mtime_ns=information.last_modification_time_ns,
            mode=(0o755 if kind is FileKind.FOLDER else 0o644) & ~read_only,
            links=max(1, len(names)),
        )

    def children(self) -> Iterator[tuple[bytes, Node]]:
        """What the index calls, and the record called so confirms: blocks that an index gave up are not cleared."""
        mft = self._record.ntfs.mft
        told: set[str] = set()
        for entry in self._record.iterdir(ignore_dos=True):
            reference = entry.header.FileReference
            number = segment_reference(reference)
            name = entry.attribute.file_name
            if number < _FIRST_OF_USERS or name in told:
                continue
            record = mft.get(number)
            if record.header.SequenceNumber != reference.SequenceNumber or not record.header.Flags & _IN_USE:
                continue
            names = record.attributes.FILE_NAME
            if any(each.file_name == name and self._is_parent_of(each) for each in names):
                told.add(name)
                yield name_of(name), NtfsNode(record)

    def target(self) -> bytes:
        point = self._record.attributes[ATTRIBUTE_TYPE_CODE.REPARSE_POINT]
        return name_of((point.print_name or point.substitute_name or "").replace("\\", "/"))

    def data(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        tag = self._reparse_tag()
        if tag:
            raise Unreadable(f"its content is kept elsewhere (reparse tag {tag:#x}), which cannot be read here")
        streams = self._record.attributes.find("", ATTRIBUTE_TYPE_CODE.DATA)
        return _content(streams, start) if streams else iter(())

    def attributes(self) -> Iterator[Attribute]:
        """Its alternate data streams, as far as they are short enough, and called as ntfs-3g calls them."""
        too_long = []
        for name in sorted({each.header.name for each in self._record.attributes.DATA} - {""}):
            streams = self._record.attributes.find(name, ATTRIBUTE_TYPE_CODE.DATA)
            size = streams.size()
            if size > MOST_VALUE_BYTES:
                too_long.append(name)
                continue
            value = bytearray(size)
            for offset, data in _content(streams, 0):
                value[offset : offset + len(data)] = data
            yield b"user." + name_of(name), bytes(value)
        if too_long:
            raise Unreadable(f"alternate data streams too long to be kept as such: {', '.join(too_long)[:500]}")

    def _is_parent_of(self, name: Any) -> bool:
        return bool(segment_reference(name.attr.ParentDirectory) == self.key)

    def _reparse_tag(self) -> int:
        points = self._record.attributes[ATTRIBUTE_TYPE_CODE.REPARSE_POINT]
        return int(points.tag) & 0xFFFFFFFF if points else 0


def _content(streams: Any, start: int) -> Iterator[tuple[int, bytes]]:
    """Of a stream by its attributes, as :meth:`NtfsNode.data` tells it. Raises :class:`Unreadable`."""
    header = streams[0].header
    if header.flags & _ENCRYPTED_STREAM:
        raise Unreadable("the guest encrypted it")
    valid = None
    if not header.resident and not header.flags & _COMPRESSED:
        # What was reserved and never written is zeros, whatever lies there.
        valid = min(
            each.header.header.Form.Nonresident.ValidDataLength
            for each in streams
            if not each.resident and each.header.lowest_vcn == 0
        )
    return pieces_of(streams.open(), start, valid)
