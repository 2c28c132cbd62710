"""Files and volumes of restore points as text, and as documents for programs."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from holdfast_agent.model.units import format_size
from holdfast_agent.wire.files import FileEntry, FileKind, VolumeEntry

from .file_attributes import ACCESS, attribute_texts
from .table import table

FILE_TYPES = {
    FileKind.FILE: stat.S_IFREG,
    FileKind.FOLDER: stat.S_IFDIR,
    FileKind.LINK: stat.S_IFLNK,
    FileKind.OTHER: 0,
}


class FileLine(msgspec.Struct, frozen=True, kw_only=True):
    """``path``: what is not UTF-8 stands as ``\\xNN``. ``mode``: as chmod takes it. ``target``: of links.

    ``attributes``: extended ones as :func:`~.file_attributes.attribute_texts` tells them, where a folder is listed.
    """

    path: str
    kind: FileKind
    size: int
    modified: str
    mode: str
    uid: int
    gid: int
    target: str = ""
    attributes: dict[str, str] = {}


def file_line(entry: FileEntry) -> FileLine:
    return FileLine(
        path=shown(entry.path),
        kind=entry.kind,
        size=entry.size,
        modified=_moment(entry.mtime_ns, "microseconds"),
        mode=f"{entry.mode:04o}",
        uid=entry.uid,
        gid=entry.gid,
        target=shown(entry.target),
        attributes=attribute_texts(entry.attributes),
    )


def files_text(entries: Sequence[FileEntry], *, whole_paths: bool) -> str:
    """As `ls -l` shows them, with + for an access list; by their names alone, or by ``whole_paths``."""
    if not entries:
        return "Nothing"
    rows = []
    for entry in entries:
        name = shown(entry.path if whole_paths else entry.path.rpartition(b"/")[2] or b"/")
        target = f" -> {shown(entry.target)}" if entry.kind is FileKind.LINK else ""
        size = format_size(entry.size) if entry.kind is FileKind.FILE else "-"
        mode = stat.filemode(FILE_TYPES[entry.kind] | entry.mode)
        mode += "+" if any(each == ACCESS.encode() for each, _ in entry.attributes) else ""
        rows.append((mode, str(entry.uid), str(entry.gid), size, changed_at(entry.mtime_ns), name + target))
    return table(("mode", "uid", "gid", "size", "modified (UTC)", "name"), rows, right=("uid", "gid", "size"))


def volumes_text(volumes: Sequence[VolumeEntry]) -> str:
    """The table of `point volumes`."""
    rows = [
        (
            each.name,
            each.kind or "unknown",
            format_size(each.size_bytes),
            each.label or "-",
            each.place or "-",
            each.note,
        )
        for each in volumes
    ]
    return table(("volume", "kind", "size", "label", "files under", "note"), rows, right=("size",))


def shown(path: bytes) -> str:
    """A path for people."""
    return path.decode("utf-8", "backslashreplace")


def changed_at(ns: int) -> str:
    """When a file was changed, in UTC, to the second; "?" for what is no moment."""
    return _moment(ns, "seconds")


def _moment(ns: int, precision: str) -> str:
    try:
        moment = datetime.fromtimestamp(ns // 1_000_000_000, UTC).replace(microsecond=ns // 1000 % 1_000_000)
    except (ValueError, OverflowError, OSError):  # a guest may write what it likes
        return "?"
    return moment.replace(tzinfo=None).isoformat(sep=" ", timespec=precision)
