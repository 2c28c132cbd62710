"""`holdfast restore files`."""

from __future__ import annotations

from functools import partial

import click
import msgspec

from holdfast_agent.errors import UsageError
from holdfast_manager.catalog.values import SessionKind
from holdfast_manager.reports.times import moment

from .app import App, pass_app
from .commands import Command
from .point_files import chosen_place
from .running import detach_option, run_session
from .serving import serving_agent


@click.command(
    cls=Command,
    examples=(
        "holdfast restore files 3f2a1b0c:/etc/nginx /srv/restored",
        "holdfast restore files latest:/home/ann/letter.odt /srv/restored --vm web",
        "holdfast restore files 3f2a1b0c:/etc 3f2a1b0c:/var/www /srv/restored --overwrite",
    ),
)
@click.argument("places", metavar="POINT:PATH…", nargs=-1, required=True)
@click.argument("target")
@click.option("--vm", help='With "latest": of which VM.')
@click.option("--volume", default="", metavar="NAME", help="Of this volume only; paths begin at its root.")
@click.option("--disk", "disks", multiple=True, help="Look at this disk only, by name or id; may be given again.")
@click.option("--proxy", help="The agent that writes the files. Default: the repository's own, if it is a proxy.")
@click.option("--overwrite", is_flag=True, help="Replace what has their names in TARGET, once all is restored.")
@click.option("--setuid", is_flag=True, help="Keep setuid and setgid bits of files, and their capabilities.")
@detach_option
@pass_app
def files(
    app: App,
    places: tuple[str, ...],
    target: str,
    vm: str | None,
    volume: str,
    disks: tuple[str, ...],
    proxy: str | None,
    overwrite: bool,
    setuid: bool,
    detach: bool,
) -> int:
    """Restore files and whole folders from a restore point, without restoring its disks.

    TARGET is a folder on the proxy's host, below those that its agent may use; it is made if it is missing, for its
    agent's user alone. Modes, times, links and access lists are set everywhere; owners, security labels and trusted
    attributes where the agent runs as root. Devices, pipes and sockets are not restored. Ends with warnings where
    something could not be restored as it was.
    """
    from holdfast_manager.sessions.requests import FilesRequest

    chosen = [chosen_place(app, place, vm) for place in places]
    row = chosen[0][0]
    if any(other.sid != row.sid for other, _ in chosen):
        raise UsageError(reason="all files of one restore come from one restore point")
    request = FilesRequest(
        repository=row.repository,
        sid=row.sid,
        proxy=serving_agent(app, row.repository, proxy),
        paths=tuple(path for _, path in chosen),
        target=target,
        volume=volume,
        disks=disks,
        overwrite=overwrite,
        setuid=setuid,
    )
    app.out.note(f"Restoring files of {row.vm_name} as of {moment(row.created)} (restore point {row.sid[:12]})")
    begin = partial(app.catalog.sessions.begin, SessionKind.FILES, msgspec.to_builtins(request))
    return run_session(app, begin, detach, strict=False)
