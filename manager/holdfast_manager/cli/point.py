"""`holdfast point …`."""

from __future__ import annotations

import click

from holdfast_agent.errors import HoldfastError
from holdfast_agent.model.ids import parse_sid
from holdfast_manager.reports.points_text import point_text, points_text

from .app import App, pass_app
from .commands import Group
from .naming import LATEST, chosen_point
from .point_diff import diff
from .point_files import find, ls, volumes
from .point_mount import mount


@click.group(cls=Group)
def point() -> None:
    """Restore points: a VM at one instant, each whole in itself."""


for _command in (ls, find, volumes, diff, mount):
    point.add_command(_command)


@point.command("list", examples=("holdfast point list", "holdfast point list --vm web --limit 5"))
@click.option("--vm", help="Of the VM with this name only.")
@click.option("--repository", help="In this repository or group only.")
@click.option("--job", help="Made by this job only.")
@click.option("--limit", type=click.IntRange(1, 100000), default=50, show_default=True, help="At most so many.")
@click.option("--pruned", is_flag=True, help="Those that were pruned and may still be given back.")
@pass_app
def list_(app: App, vm: str | None, repository: str | None, job: str | None, limit: int, pruned: bool) -> None:
    """Restore points, newest first."""
    within = None if repository is None else [entry.name for entry in app.catalog.groups.behind(repository)]
    rows = app.catalog.points.list(job=job, vm_name=vm, limit=limit, pruned=pruned, within=within)
    app.out.result({"points": rows}, lambda: points_text(rows))


@point.command(examples=("holdfast point show 3f2a1b0c", "holdfast point show latest --vm web"))
@click.argument("point", metavar="POINT")
@click.option("--vm", help=f'With "{LATEST}": of which VM.')
@pass_app
def show(app: App, point: str, vm: str | None) -> None:
    """One restore point and its disks. POINT is an id, the beginning of one, or "latest" with --vm."""
    from holdfast_manager.enrolment.points import read_point

    row = chosen_point(app.catalog, point, vm)
    try:
        whole = read_point(app.catalog, row, app.keys)
    except HoldfastError as error:
        if not error.retryable:
            raise
        whole = None  # the repository's host is away: what the catalogue knows is better than nothing
        app.out.warning(f"its disks cannot be shown now: {error.text}")
    app.out.result({"point": row, "disks": None if whole is None else whole.disks}, lambda: point_text(row, whole))


@point.command("undo-prune", examples=("holdfast point list --pruned", "holdfast point undo-prune 3f2a1b0c"))
@click.argument("point", metavar="POINT")
@click.option("--repository", help="Where it is, for one that this manager does not remember; then give its whole id.")
@pass_app
def undo_prune(app: App, point: str, repository: str | None) -> None:
    """Give a pruned restore point back, unless a garbage collection has taken it up.

    The next session of its job would prune it again: `holdfast protect` it, or change the retention.
    """
    from holdfast_manager.enrolment.points import asking, give_back

    if repository is None:
        row = app.catalog.points.get(point.lower(), pruned=True)
        repository, sid = row.repository, row.sid
    else:
        sid = parse_sid(point.lower())
    with asking(app.catalog, repository, app.keys) as ask:
        row = give_back(app.catalog, repository, sid, ask)
    short = row.sid[:12]
    text = f"{short} of {row.vm_name} is there again; `holdfast protect {short}` keeps it from the next pruning"
    app.out.result({"point": row}, text)
