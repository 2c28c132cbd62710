"""`holdfast restore …`."""

from __future__ import annotations

from functools import partial
from pathlib import PurePosixPath

import click
import msgspec

from holdfast_agent.errors import NotFound, UsageError
from holdfast_agent.model.disk_url import IMAGE_FORMATS, DiskScheme, DiskUrl, file_url, parse_disk_url
from holdfast_agent.model.points import DiskPoint, Point
from holdfast_manager.catalog.values import PointEntryRow, PointState, SessionKind
from holdfast_manager.reports.times import moment

from .app import App, pass_app
from .commands import Group
from .naming import chosen_point, chosen_proxy, point_options
from .restore_files import files
from .running import detach_option, run_session

_overwrite = click.option("--overwrite", is_flag=True, help="Replace what is in the way, once all is restored.")
_in_place = click.option("--in-place", is_flag=True, help="Rewrite what is there, and only where it differs.")


@click.group(cls=Group)
def restore() -> None:
    """Restore files, a disk to a file, or a VM to a server. Every block is checked by its id."""


restore.add_command(files)


@restore.command(
    examples=(
        "holdfast restore disk --point 3f2a1b0c --disk root.img --to /srv/restored/root.img --proxy local",
        "holdfast restore disk --vm web --point latest --to /srv/restored/web.img",
        "holdfast restore disk --vm web --point latest --to /srv/restored/web.qcow2 --format qcow2",
        "holdfast restore disk --vm web --point latest --to /dev/vg0/web --in-place",
    )
)
@point_options
@click.option("--disk", help="Name or id of the disk; may be left out where there is only one.")
@click.option("--to", "target", required=True, metavar="PLACE", help="The image to write, on the proxy's host.")
@click.option(
    "--format",
    "image_format",
    type=click.Choice(sorted(IMAGE_FORMATS)),
    default="raw",
    show_default=True,
    help="Of the image; others than raw are written by qemu-nbd.",
)
@click.option("--proxy", help="The agent that writes the file; may be left out where there is only one.")
@_overwrite
@_in_place
@detach_option
@pass_app
def disk(
    app: App,
    point: str,
    vm: str | None,
    repository: str | None,
    disk: str | None,
    target: str,
    image_format: str,
    proxy: str | None,
    overwrite: bool,
    in_place: bool,
    detach: bool,
) -> int:
    """Restore one disk to a sparse image on a proxy's host, raw or in one of QEMU's formats.

    With --in-place PLACE is an image, a block device, or a disk URL such as image:/vms/web.qcow2?format=qcow2, that is
    there and that nobody uses: it is compared with the restore point, and only blocks that differ are written.
    """
    from holdfast_manager.enrolment.points import read_point
    from holdfast_manager.sessions.requests import RestoreRequest

    _check_ways(overwrite, in_place)
    if in_place and image_format != "raw":
        raise UsageError(reason="--format is of a new image; what is rewritten in place is named by a disk URL")
    place = _existing_disk(target) if in_place else ""
    path = PurePosixPath() if in_place else _path(target)
    row = chosen_point(app.catalog, point, vm, repository)
    writer = chosen_proxy(app.catalog, proxy)
    chosen = _chosen_disk(read_point(app.catalog, row, app.keys), disk)
    request = RestoreRequest(
        repository=row.repository,
        sid=row.sid,
        disks=(chosen.disk_id,),
        proxy=writer,
        directory=str(path.parent) if not in_place else "",
        files={chosen.disk_id: path.name} if not in_place else {},
        image_format=image_format,
        overwrite=overwrite,
        in_place=in_place,
        places={chosen.disk_id: place} if in_place else {},
    )
    _announce(app, row)
    return _run(app, request, detach)


@restore.command(
    examples=(
        "holdfast restore vm --vm web --point latest --server lab --name web-restored",
        "holdfast restore vm --point 3f2a1b0c --server lab --overwrite",
        "holdfast restore vm --vm web --point latest --server kvm1 --in-place",
    )
)
@point_options
@click.option("--server", required=True, help="The server that gets the VM.")
@click.option("--name", help="What the VM is called there. Default: as it was.")
@click.option("--proxy", help="The agent that writes the disks. Default: any with the role.")
@_overwrite
@_in_place
@detach_option
@pass_app
def vm(
    app: App,
    point: str,
    vm: str | None,
    repository: str | None,
    server: str,
    name: str | None,
    proxy: str | None,
    overwrite: bool,
    in_place: bool,
    detach: bool,
) -> int:
    """Restore a whole VM to a server.

    With --in-place the VM of that name is there and is off: its disks are compared with the restore point, by the
    change tracking that began with it or as a whole, and only what differs is written. Its definition stays as it is.
    """
    from holdfast_manager.sessions.requests import RestoreRequest

    _check_ways(overwrite, in_place)
    row = chosen_point(app.catalog, point, vm, repository)
    app.catalog.servers.get(server)
    request = RestoreRequest(
        repository=row.repository,
        sid=row.sid,
        proxy=chosen_proxy(app.catalog, proxy) if proxy is not None else "",
        server=server,
        name=name or row.vm_name,
        overwrite=overwrite,
        in_place=in_place,
    )
    _announce(app, row)
    return _run(app, request, detach)


def _path(target: str) -> PurePosixPath:
    path = PurePosixPath(target)
    if not path.is_absolute() or ".." in path.parts or not path.name:
        raise UsageError(reason=f"--to {target!r}: write an absolute path on the proxy's host, without '..'")
    return path


def _check_ways(overwrite: bool, in_place: bool) -> None:
    if overwrite and in_place:
        raise UsageError(reason="--overwrite replaces what is there, --in-place rewrites it: choose one")


def _existing_disk(target: str) -> str:
    """The URL of a disk that is there: given as such, or as the path of a raw image or (below /dev) of a device."""
    if not target.startswith("/"):
        return str(parse_disk_url(target))
    if target.startswith("/dev/") and not target.startswith("/dev/shm/"):  # noqa: S108 - a tmpfs: files, no devices
        return str(DiskUrl(DiskScheme.BLOCK, str(_path(target))))
    return str(file_url(str(_path(target))))


def _announce(app: App, row: PointEntryRow) -> None:
    """Say which point it is going to be: "latest" passes suspect ones over, and an id may name one."""
    app.out.note(f"Restoring {row.vm_name} as of {moment(row.created)} (restore point {row.sid[:12]})")
    if row.doubt:
        app.out.warning(f"it may hold blocks that were out of date when it was made: {row.doubt}")
    elif row.state is PointState.SUSPECT:
        app.out.warning("a verification found damage that touches this restore point; every block is checked")
    newer = app.catalog.points.list(repository=row.repository, vm_name=row.vm_name, limit=1)
    if newer and newer[0].created > row.created and newer[0].state is PointState.SUSPECT:
        app.out.warning(f"there is a newer restore point, {newer[0].sid[:12]}, which is suspect")


def _chosen_disk(point: Point, wanted: str | None) -> DiskPoint:
    names = ", ".join(each.name for each in point.disks)
    if wanted is None:
        if len(point.disks) != 1:
            raise UsageError(reason=f"the point has {len(point.disks)} disks ({names}): say --disk")
        return point.disks[0]
    found = [each for each in point.disks if each.disk_id == wanted] or [
        each for each in point.disks if each.name == wanted
    ]
    if not found:
        raise NotFound(kind="disk in this restore point", name=wanted, advice=f"It has {names}")
    if len(found) > 1:
        raise UsageError(reason=f"several disks are called {wanted!r}; give the id (`holdfast point show {point.sid}`)")
    return found[0]


def _run(app: App, request: msgspec.Struct, detach: bool) -> int:
    begin = partial(app.catalog.sessions.begin, SessionKind.RESTORE, msgspec.to_builtins(request))
    return run_session(app, begin, detach, strict=False)
