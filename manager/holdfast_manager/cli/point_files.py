"""`holdfast point ls`, `point find` and `point volumes`: looks into a restore point's file systems."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from holdfast_agent.errors import NotFound, UsageError
from holdfast_agent.wire.files import FilesFound, FindFiles, ListFiles, ListVolumes
from holdfast_manager.catalog.values import PointEntryRow
from holdfast_manager.reports.file_versions import versions, versions_text
from holdfast_manager.reports.files_text import file_line, files_text, volumes_text
from holdfast_manager.reports.table import printable
from holdfast_manager.reports.times import moment

from .app import App, pass_app
from .commands import Command
from .naming import chosen_point
from .serving import serving_agent

if TYPE_CHECKING:
    from holdfast_manager.sessions.browsing import Browser

_place = click.argument("place", metavar="POINT[:PATH]")
_vm = click.option("--vm", help='With "latest": of which VM.')
_volume = click.option("--volume", default="", metavar="NAME", help="Only this volume; PATH begins at its root.")
_disk = click.option(
    "--disk", "disks", multiple=True, help="Look at this disk only, by name or id; may be given again."
)
_proxy = click.option("--proxy", help="The agent that looks. Default: the repository's own, if it is a proxy.")


def _options(command: Any) -> Any:
    for option in (_vm, _volume, _disk, _proxy):
        command = option(command)
    return command


@click.command(cls=Command, examples=("holdfast point ls 3f2a1b0c", "holdfast point ls latest:/var/log --vm web"))
@_place
@_options
@click.option("--after", default="", metavar="NAME", help="Go on after this name of a long folder.")
@pass_app
def ls(
    app: App, place: str, vm: str | None, volume: str, disks: tuple[str, ...], proxy: str | None, after: str
) -> None:
    """List a folder of a restore point. Paths are as the guest has them; `point volumes` tells where volumes are."""
    row, path = chosen_place(app, place, vm)
    with looking(app, row, disks, proxy) as browser:
        found = browser.ask(ListFiles(path=path, after=os.fsencode(after)), volume)
    _tell(app, row, found, whole_paths=False)
    if found.more:
        app.out.warning("there is more: go on with --after and the last name")


@click.command(
    cls=Command, examples=("holdfast point find 3f2a1b0c:/home '*.odt'", "holdfast point find latest '*.conf' --vm web")
)
@_place
@click.argument("pattern")
@_options
@click.option(
    "--all-points", is_flag=True, help="In all points of that VM in this repository: which versions there are."
)
@pass_app
def find(
    app: App,
    place: str,
    pattern: str,
    vm: str | None,
    volume: str,
    disks: tuple[str, ...],
    proxy: str | None,
    all_points: bool,
) -> None:
    """Find files of a restore point whose names fit a pattern (*, ?, […]), in a folder and all below it."""
    row, path = chosen_place(app, place, vm)
    wish = FindFiles(path=path, pattern=os.fsencode(pattern))
    if all_points:
        _find_versions(app, row, wish, volume, disks, proxy)
        return
    with looking(app, row, disks, proxy) as browser:
        found = browser.ask(wish, volume)
    _tell(app, row, found, whole_paths=True)
    if found.more:
        app.out.warning("there are more than can be told at once: look in a deeper folder")


def _find_versions(
    app: App, row: PointEntryRow, wish: FindFiles, volume: str, disks: tuple[str, ...], proxy: str | None
) -> None:
    """Points whose disks are the same hold the same files: they are looked into once."""
    from holdfast_manager.enrolment.points import read_point

    rows = [each for each in app.catalog.points.history(row.repository, row.server, row.vm_id) if not each.undo_until]
    looks: dict[tuple[str, ...], FilesFound] = {}
    points = []
    for each in rows:
        roots = tuple(disk.root for disk in read_point(app.catalog, each, app.keys).disks)
        if roots not in looks:
            app.out.note(f"Looking into {each.sid[:12]} of {moment(each.created)}")
            try:
                with looking(app, each, disks, proxy) as browser:
                    looks[roots] = browser.ask(wish, volume)
            except NotFound:  # the folder was not there yet, or is no more
                looks[roots] = FilesFound()
            tell_complaints(app, looks[roots])
        points.append((str(each.sid), looks[roots].entries))
    more = any(look.more for look in looks.values())
    if more:
        app.out.warning("there are more than can be told at once: look in a deeper folder")
    found = versions(points)
    app.out.result({"points": len(rows), "versions": found, "more": more}, lambda: versions_text(found))


@click.command(cls=Command, examples=("holdfast point volumes 3f2a1b0c",))
@click.argument("place", metavar="POINT")
@_options
@pass_app
def volumes(app: App, place: str, vm: str | None, volume: str, disks: tuple[str, ...], proxy: str | None) -> None:
    """What is on the disks of a restore point: partitions, logical volumes, and where their files are found."""
    row, _ = chosen_place(app, place, vm)
    with looking(app, row, disks, proxy) as browser:
        found = browser.ask(ListVolumes(), volume)
    document = {"point": row.sid, "volumes": found.volumes}
    app.out.result(document, lambda: volumes_text(found.volumes))


def chosen_place(app: App, place: str, vm: str | None) -> tuple[PointEntryRow, bytes]:
    """The point and the path of POINT[:PATH]. Raises as :func:`chosen_point`, and :class:`UsageError`."""
    name, colon, path = place.partition(":")
    if colon and not path.startswith("/"):
        raise UsageError(reason=f"{place!r}: write POINT:/path, with a path that begins with /")
    raw = os.fsencode(path or "/")
    if len(raw) > 4096 or b"\0" in raw:
        raise UsageError(reason="a path has up to 4096 bytes")
    return chosen_point(app.catalog, name, vm), raw


@contextmanager
def looking(app: App, row: PointEntryRow, disks: tuple[str, ...], proxy: str | None) -> Iterator[Browser]:
    """Ask about the files of a point; its disks are served meanwhile. Raises what starting that raises."""
    from holdfast_manager.enrolment.points import read_point
    from holdfast_manager.sessions.browsing import browsing

    agent = serving_agent(app, row.repository, proxy)
    whole = read_point(app.catalog, row, app.keys)
    with browsing(app.catalog, app.keys, app.settings.timing, row, whole, agent, disks) as browser:
        yield browser


def tell_complaints(app: App, found: FilesFound) -> None:
    """What could not be read."""
    for complaint in found.complaints:
        app.out.warning(printable(complaint))


def _tell(app: App, row: PointEntryRow, found: FilesFound, *, whole_paths: bool) -> None:
    tell_complaints(app, found)
    document = {"point": row.sid, "files": [file_line(entry) for entry in found.entries], "more": found.more}
    app.out.result(document, lambda: files_text(found.entries, whole_paths=whole_paths))
