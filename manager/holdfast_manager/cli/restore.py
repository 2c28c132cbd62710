"""`holdfast restore …`."""

from __future__ import annotations

from functools import partial
from pathlib import PurePosixPath

import click
import msgspec

from holdfast_agent.errors import NotFound, UsageError
from holdfast_agent.model.points import DiskPoint, Point
from holdfast_manager.catalog.values import PointEntryRow, PointState, SessionKind
from holdfast_manager.reports.times import moment

from .app import App, pass_app
from .commands import Group
from .naming import chosen_point, chosen_proxy
from .running import detach_option, run_session

_point = click.option("--point", required=True, metavar="POINT", help='An id, the beginning of one, or "latest".')
_vm = click.option("--vm", help='With "latest": the newest restore point of this VM.')
_repository = click.option("--repository", help='With "latest": in this repository only.')
_overwrite = click.option("--overwrite", is_flag=True, help="Replace what is in the way, once all is restored.")


@click.group(cls=Group)
def restore() -> None:
    """Restore a disk to a file, or a VM to a server. Every block is checked by its id."""


@restore.command(
    examples=(
        "holdfast restore disk --point 3f2a1b0c --disk root.img --to /srv/restored/root.img --proxy local",
        "holdfast restore disk --vm web --point latest --to /srv/restored/web.img",
    )
)
@_point
@_vm
@_repository
@click.option("--disk", help="Name or id of the disk; may be left out where there is only one.")
@click.option("--to", "target", required=True, metavar="FILE", help="The raw image to write, on the proxy's host.")
@click.option("--proxy", help="The agent that writes the file; may be left out where there is only one.")
@_overwrite
@detach_option
@pass_app
def disk(
    app: App,
    point: str,
    vm: str | None,
    repository: str | None,
    disk: str | None,
    target: str,
    proxy: str | None,
    overwrite: bool,
    detach: bool,
) -> int:
    """Restore one disk to a raw, sparse image on a proxy's host."""
    from holdfast_manager.enrolment.points import read_point
    from holdfast_manager.sessions.requests import RestoreRequest

    place = PurePosixPath(target)
    if not place.is_absolute() or ".." in place.parts or not place.name:
        raise UsageError(reason=f"--to {target!r}: write an absolute path on the proxy's host, without '..'")
    row = chosen_point(app.catalog, point, vm, repository)
    writer = chosen_proxy(app.catalog, proxy)
    chosen = _chosen_disk(read_point(app.catalog, row, app.keys), disk)
    request = RestoreRequest(
        repository=row.repository,
        sid=row.sid,
        disks=(chosen.disk_id,),
        proxy=writer,
        directory=str(place.parent),
        files={chosen.disk_id: place.name},
        overwrite=overwrite,
    )
    _announce(app, row)
    return _run(app, request, detach)


@restore.command(
    examples=(
        "holdfast restore vm --vm web --point latest --server lab --name web-restored",
        "holdfast restore vm --point 3f2a1b0c --server lab --overwrite",
    )
)
@_point
@_vm
@_repository
@click.option("--server", required=True, help="The server that gets the VM.")
@click.option("--name", help="What the VM is called there. Default: as it was.")
@click.option("--proxy", help="The agent that writes the disks. Default: any with the role.")
@_overwrite
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
    detach: bool,
) -> int:
    """Restore a whole VM to a server."""
    from holdfast_manager.sessions.requests import RestoreRequest

    row = chosen_point(app.catalog, point, vm, repository)
    app.catalog.servers.get(server)
    request = RestoreRequest(
        repository=row.repository,
        sid=row.sid,
        proxy=chosen_proxy(app.catalog, proxy) if proxy is not None else "",
        server=server,
        name=name or row.vm_name,
        overwrite=overwrite,
    )
    _announce(app, row)
    return _run(app, request, detach)


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
