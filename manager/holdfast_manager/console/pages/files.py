"""The restore browser: folders of a restore point, and files out of them."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Generator
from contextlib import closing
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse

from holdfast_agent.errors import UsageError
from holdfast_agent.model.units import format_size
from holdfast_agent.wire.files import FileEntry, FileKind, FilesFound, ListFiles, ListVolumes, VolumeEntry
from holdfast_manager.catalog.values import PointEntryRow
from holdfast_manager.reports.files_text import FILE_TYPES, changed_at, shown
from holdfast_manager.reports.html import Html, element, html_table, joined
from holdfast_manager.reports.times import moment
from holdfast_manager.rights.roles import Right

from ..layout import page
from ..parts import card, command, icon, link, nothing, scrolled
from ..streaming import streamed
from ..visit import Visit, address
from .points import point_of, trail_of

_MOST_PATH = 4096
_BYTES = "application/octet-stream"
_SIGNS = {FileKind.FILE: "file", FileKind.FOLDER: "folder", FileKind.LINK: "link", FileKind.OTHER: "quiet"}


def files(visit: Visit) -> str:
    """``/points/{sid}/files``: one folder; the volumes too where it is the root."""
    row = point_of(visit)
    visit.require(Right.RESTORE, "look into a restore point")
    path, volume = _path(visit), visit.text("volume")
    with visit.act("point ls", row.sid, shown(path)):
        found = visit.console.looks.ask(row, ListFiles(path=path, after=visit.raw("after", b"")), volume)
        volumes = visit.console.looks.ask(row, ListVolumes(), "").volumes if path == b"/" and not volume else ()
    base = f"/points/{row.sid}/files"
    complaints = [element("p", icon("warning"), told, class_="warning") for told in found.complaints]
    table = scrolled(_table(row, found, volume), f"Files in {shown(path)}")
    return page(
        visit,
        f"Files of {row.vm_name}, {moment(row.created)}",
        *([card("Volumes", _volumes(base, volumes))] if volumes else []),
        _way(base, path, volume),
        *complaints,
        table if found.entries else nothing("Nothing"),
        _more(base, path, volume, found) if found.more else "",
        *_restore(row, path, volume),
        place="/vms",
        trail=(*trail_of(row), (f"/points/{row.sid}", moment(row.created))),
    )


def download(visit: Visit) -> Response:
    """``/points/{sid}/file``: the content of one file, as it is read."""
    row = point_of(visit)
    visit.require(Right.RESTORE, "read a file of a restore point")
    path = _path(visit)
    content = visit.console.looks.download(row, path, visit.text("volume"))
    first = next(content)  # raises before the answer begins
    if not isinstance(first, FileEntry):
        raise UsageError(reason="this is no file")

    def told() -> Generator[bytes, None, None]:
        with visit.act("point download", row.sid, shown(path)), closing(content):
            for part in content:
                if isinstance(part, bytes):
                    yield part

    name = shown(path.rpartition(b"/")[2])
    headers = {"Content-Disposition": disposition(name), "Content-Length": str(first.size)}
    if visit.request.method == "HEAD":
        content.close()
        return Response(headers=headers, media_type=_BYTES)
    return StreamingResponse(streamed(told()), media_type=_BYTES, headers=headers)


def disposition(name: str) -> str:
    """For a file of any name (RFC 6266): never shown in the browser, and never a path."""
    safe = "".join(each if each.isascii() and (each.isalnum() or each in " ._-+()") else "_" for each in name)
    safe = safe.strip(" .")[:200] or "file"
    whole = quote(name[:200].replace("/", "_"), safe="", errors="replace")
    return f"attachment; filename=\"{safe}\"; filename*=UTF-8''{whole}"


def _path(visit: Visit) -> bytes:
    path = visit.raw("path", b"/")
    if not path.startswith(b"/") or len(path) > _MOST_PATH or b"\0" in path:
        raise UsageError(reason="a path begins with / and has up to 4096 bytes")
    return path


def _table(row: PointEntryRow, found: FilesFound, volume: str) -> Html:
    heads = ("name", "size", "changed (UTC)", "mode", "owner")
    entries = sorted(found.entries, key=lambda entry: (entry.kind is not FileKind.FOLDER, entry.path))
    rows = [_row(row, entry, volume) for entry in entries]
    return html_table(heads, rows, ("size",), "Files")


def _row(row: PointEntryRow, entry: FileEntry, volume: str) -> tuple[str, ...]:
    name = shown(entry.path.rpartition(b"/")[2] or b"/")
    kind = icon(_SIGNS[entry.kind])
    match entry.kind:
        case FileKind.FOLDER:
            href = address(f"/points/{row.sid}/files", path=entry.path, volume=volume)
            told = joined(kind, link(href, f"{name}/"))
        case FileKind.FILE:
            href = address(f"/points/{row.sid}/file", path=entry.path, volume=volume)
            told = joined(kind, link(href, name, download=""))
        case FileKind.LINK:
            told = joined(kind, f"{name} → {shown(entry.target)}")
        case FileKind.OTHER:
            told = joined(kind, name, element("span", " (device, pipe or socket)", class_="quiet"))
    return (
        told,
        format_size(entry.size) if entry.kind is FileKind.FILE else "-",
        changed_at(entry.mtime_ns),
        element("code", stat.filemode(FILE_TYPES[entry.kind] | entry.mode)),
        f"{entry.uid}:{entry.gid}",
    )


def _way(base: str, path: bytes, volume: str) -> Html:
    """The folders above, each to be gone to."""
    parts = [link(address(base, path=b"/", volume=volume), volume or "/", class_="root")]
    names = [name for name in path.split(b"/") if name]
    for at, name in enumerate(names):
        here = {"aria_current": "location"} if at == len(names) - 1 else {}
        parts.append(link(address(base, path=b"/" + b"/".join(names[: at + 1]), volume=volume), shown(name), **here))
    return element("nav", element("ol", *(element("li", part) for part in parts)), aria_label="Folders", class_="way")


def _restore(row: PointEntryRow, path: bytes, volume: str) -> list[Html]:
    """The command for the whole folder, where a shell can be told its name: the guest chose it."""
    name = shown(path)
    if not name.isprintable() or name.encode() != path:
        return []
    of_volume = f" --volume {shlex.quote(volume)}" if volume else ""
    line = f"holdfast restore files {shlex.quote(f'{row.sid[:12]}:{name}')} /srv/restored{of_volume}"
    told = element("p", "With owners, modes and links, to a folder of a proxy:")
    return [card("Restore this folder", told, command(line))]


def _more(base: str, path: bytes, volume: str, found: FilesFound) -> Html:
    last = found.entries[-1].path.rpartition(b"/")[2] if found.entries else b""
    return element("p", link(address(base, path=path, volume=volume, after=last), "There is more", rel="next"))


def _volumes(base: str, volumes: tuple[VolumeEntry, ...]) -> Html:
    rows = [
        (
            link(address(base, volume=each.name, path=b"/"), each.name) if each.place else each.name,
            each.kind or "unknown",
            format_size(each.size_bytes),
            each.label or "-",
            each.place or "-",
            each.note,
        )
        for each in volumes
    ]
    heads = ("volume", "kind", "size", "label", "files under", "note")
    return scrolled(html_table(heads, rows, ("size",), "What is on the disks"), "Volumes")
