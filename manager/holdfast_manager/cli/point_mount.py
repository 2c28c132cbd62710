"""`holdfast point mount`."""

from __future__ import annotations

from functools import partial

import click
import msgspec

from holdfast_manager.catalog.values import SessionKind
from holdfast_manager.reports.times import moment

from .app import App, pass_app
from .commands import Command
from .naming import chosen_point
from .running import detach_option, run_session
from .serving import serving_agent


@click.command(
    cls=Command,
    examples=(
        "holdfast point mount latest /mnt/web --vm web",
        "holdfast point mount 3f2a1b0c /mnt/web --volume root.img.p1 --detach",
    ),
)
@click.argument("point")
@click.argument("folder")
@click.option("--vm", help='With "latest": of which VM.')
@click.option("--volume", default="", metavar="NAME", help="This volume only.")
@click.option("--disk", "disks", multiple=True, help="Look at this disk only, by name or id; may be given again.")
@click.option("--proxy", help="The agent on whose host FOLDER is. Default: the repository's own, if it is a proxy.")
@click.option(
    "--allow-other",
    is_flag=True,
    help="Show it to all users of that host: to each what owners, modes and access lists let him see.",
)
@detach_option
@pass_app
def mount(
    app: App,
    point: str,
    folder: str,
    vm: str | None,
    volume: str,
    disks: tuple[str, ...],
    proxy: str | None,
    allow_other: bool,
    detach: bool,
) -> int:
    """Show the files of a restore point in a folder of the proxy's host, read-only, without restoring anything.

    FOLDER is empty or missing, below the directories that the agent may use; only the agent's user sees what is in it,
    unless --allow-other is given. Owners and groups count by their numbers, which are the guest's.
    It goes on until it is unmounted there (`fusermount3 -u FOLDER`), Ctrl-C, or `holdfast session stop`. The kernel
    reads no file system of the guest: the confined reader does, and FUSE (package fuse3) shows what it tells.
    """
    from holdfast_manager.sessions.requests import FilesRequest

    row = chosen_point(app.catalog, point, vm)
    request = FilesRequest(
        repository=row.repository,
        sid=row.sid,
        proxy=serving_agent(app, row.repository, proxy),
        paths=(),
        target=folder,
        mount=True,
        to_others=allow_other,
        volume=volume,
        disks=disks,
    )
    app.out.note(f"Mounting files of {row.vm_name} as of {moment(row.created)} (restore point {row.sid[:12]})")
    begin = partial(app.catalog.sessions.begin, SessionKind.FILES, msgspec.to_builtins(request))
    return run_session(app, begin, detach, strict=False)
