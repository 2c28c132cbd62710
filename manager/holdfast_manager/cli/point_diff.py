"""`holdfast point diff`: what differs between two restore points, in blocks or in files."""

from __future__ import annotations

import os

import click
import msgspec

from holdfast_agent.errors import UsageError
from holdfast_agent.model.geometry import Extent
from holdfast_agent.model.points import DiskPoint, Point
from holdfast_agent.model.units import format_size
from holdfast_agent.sealing.roots import root_id
from holdfast_agent.wire.files import FindFiles
from holdfast_agent.wire.messages import CompareTrees, TreesCompared
from holdfast_agent.wire.specs import BlockTree
from holdfast_manager.catalog.values import PointEntryRow
from holdfast_manager.reports.file_versions import changes, changes_text
from holdfast_manager.reports.table import table

from .app import App, pass_app
from .commands import Command
from .naming import chosen_point
from .point_files import looking, tell_complaints


class DiskChange(msgspec.Struct, frozen=True, kw_only=True):
    """``state``: changed, same, added or removed. ``extents``: (start, length) in bytes; ``more``: there are others."""

    disk: str
    state: str
    size_bytes: int
    changed_bytes: int = 0
    extents: tuple[Extent, ...] = ()
    more: bool = False


@click.command(
    cls=Command,
    examples=(
        "holdfast point diff 3f2a1b0c 77c2a0d1",
        "holdfast point diff 3f2a1b0c latest --vm web --path /etc",
    ),
)
@click.argument("older", metavar="OLDER")
@click.argument("newer", metavar="NEWER")
@click.option("--vm", help='With "latest": of which VM.')
@click.option("--path", metavar="PATH", help="Which files differ, in this folder and all below it, instead of blocks.")
@click.option("--volume", default="", metavar="NAME", help="With --path: of this volume only.")
@click.option("--proxy", help="With --path: the agent that looks. Default: the repository's own, if it is a proxy.")
@pass_app
def diff(app: App, older: str, newer: str, vm: str | None, path: str | None, volume: str, proxy: str | None) -> None:
    """What differs between two restore points of one repository.

    Blocks are told from what the points know of them: no data are read, whatever the size of the disks. Files are told
    by their size, time, mode, owner and link target; their content is not compared.
    """
    from holdfast_manager.enrolment.points import read_point

    rows = [chosen_point(app.catalog, name, vm) for name in (older, newer)]
    if rows[0].repository != rows[1].repository:
        raise UsageError(reason="the points are in different repositories, which know nothing of each other's blocks")
    points = [read_point(app.catalog, row, app.keys) for row in rows]
    if path is not None:
        _files(app, rows, path, volume, proxy)
        return
    found = _blocks(app, rows[0].repository, points[0], points[1])
    document = {"older": rows[0].sid, "newer": rows[1].sid, "disks": found}
    app.out.result(document, lambda: _text(found))


def _files(app: App, rows: list[PointEntryRow], path: str, volume: str, proxy: str | None) -> None:
    if not path.startswith("/"):
        raise UsageError(reason=f"--path {path!r}: a path begins with /")
    looks = []
    for row in rows:
        with looking(app, row, (), proxy) as browser:
            looks.append(browser.ask(FindFiles(path=os.fsencode(path), pattern=b"*"), volume))
        tell_complaints(app, looks[-1])
    if any(look.more for look in looks):
        app.out.warning(
            "there are more files than can be told at once, and not all were compared: name a deeper folder"
        )
    found = changes(looks[0].entries, looks[1].entries)
    more = any(look.more for look in looks)
    document = {"older": rows[0].sid, "newer": rows[1].sid, "files": found, "more": more}
    app.out.result(document, lambda: changes_text(found))


def _blocks(app: App, repository: str, older: Point, newer: Point) -> list[DiskChange]:
    from holdfast_manager.enrolment.points import asking

    before = {disk.disk_id: disk for disk in older.disks}
    found = []
    with asking(app.catalog, repository, app.keys) as ask:
        path = app.catalog.repositories.get(repository).path
        for disk in newer.disks:
            old = before.pop(disk.disk_id, None)
            if old is None:
                found.append(DiskChange(disk=disk.name, state="added", size_bytes=disk.size_bytes))
            elif (old.root, old.size_bytes) == (disk.root, disk.size_bytes):
                found.append(DiskChange(disk=disk.name, state="same", size_bytes=disk.size_bytes))
            else:
                told = ask(CompareTrees(repository=path, tree=_tree(disk), since=_tree(old)), TreesCompared)
                found.append(_changed(disk, told))
    return [*found, *(DiskChange(disk=d.name, state="removed", size_bytes=d.size_bytes) for d in before.values())]


def _tree(disk: DiskPoint) -> BlockTree:
    return BlockTree(root_id(disk.root), disk.geometry)


def _changed(disk: DiskPoint, told: TreesCompared) -> DiskChange:
    return DiskChange(
        disk=disk.name,
        state="changed",
        size_bytes=disk.size_bytes,
        changed_bytes=told.changed_bytes,
        extents=told.extents,
        more=told.more,
    )


def _text(found: list[DiskChange]) -> str:
    rows = [
        (each.disk, each.state, format_size(each.size_bytes), format_size(each.changed_bytes),
         f"{len(each.extents)}{' or more' if each.more else ''}")
        for each in found
    ]  # fmt: skip
    return table(("disk", "", "size", "changed", "places"), rows, right=("size", "changed", "places"))
