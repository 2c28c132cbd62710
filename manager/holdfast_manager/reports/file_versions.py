"""Files of several restore points beside each other: what changed, and in which points a file stands how. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

from holdfast_agent.model.units import format_size
from holdfast_agent.wire.files import FileEntry, FileKind

from .files_text import FileLine, file_line, shown
from .table import table

_DIGITS = 12


class Change(StrEnum):
    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


class FileChange(msgspec.Struct, frozen=True, kw_only=True):
    """``before`` and ``after``: the file in either point, where it is there."""

    path: str
    change: Change
    before: FileLine | None = None
    after: FileLine | None = None


class FileVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A file as it stands in ``points``, the newest first."""

    file: FileLine
    points: tuple[str, ...]


def changes(before: Iterable[FileEntry], after: Iterable[FileEntry]) -> list[FileChange]:
    """By path. A file is taken to be the same when size, time, mode, owner and link target are; folders, whose times
    change with what is in them, when their mode and owner are."""
    old, new = {entry.path: entry for entry in before}, {entry.path: entry for entry in after}
    found = []
    for path in sorted(old.keys() | new.keys()):
        first, last = old.get(path), new.get(path)
        if first is not None and last is not None and _essence(first) == _essence(last):
            continue
        change = Change.ADDED if first is None else Change.REMOVED if last is None else Change.CHANGED
        lines = {"before": file_line(first) if first else None, "after": file_line(last) if last else None}
        found.append(FileChange(path=shown(path), change=change, **lines))
    return found


def versions(points: Sequence[tuple[str, Iterable[FileEntry]]]) -> list[FileVersion]:
    """Of each file its versions, by path and then as ``points`` come, which are (id, what was found in it)."""
    found: dict[bytes, dict[tuple[object, ...], tuple[FileEntry, list[str]]]] = {}
    for sid, entries in points:
        for entry in entries:
            _, where = found.setdefault(entry.path, {}).setdefault(_essence(entry), (entry, []))
            where.append(sid)
    return [
        FileVersion(file=file_line(entry), points=tuple(where))
        for path in sorted(found)
        for entry, where in found[path].values()
    ]


def changes_text(found: Sequence[FileChange]) -> str:
    """The table of `point diff --path`."""
    if not found:
        return "No file differs"
    rows = []
    for each in found:
        before, after = each.before, each.after
        rows.append((each.change.value, _size(before), _size(after), after.modified if after else "-", each.path))
    return table(("", "before", "after", "modified (UTC)", "path"), rows, right=("before", "after"))


def versions_text(found: Sequence[FileVersion]) -> str:
    """The table of `point find --all-points`."""
    if not found:
        return "In no restore point"
    rows = []
    for each in found:
        newest, oldest = each.points[0][:_DIGITS], each.points[-1][:_DIGITS]
        where = newest if len(each.points) == 1 else f"{newest} … {oldest}"
        rows.append((str(len(each.points)), where, _size(each.file), each.file.modified, each.file.path))
    return table(("points", "newest … oldest", "size", "modified (UTC)", "path"), rows, right=("points", "size"))


def _essence(entry: FileEntry) -> tuple[object, ...]:
    owned = (entry.kind, entry.mode, entry.uid, entry.gid)
    return owned if entry.kind is FileKind.FOLDER else (*owned, entry.size, entry.mtime_ns, entry.target)


def _size(line: FileLine | None) -> str:
    return format_size(line.size) if line is not None and line.kind is FileKind.FILE else "-"
