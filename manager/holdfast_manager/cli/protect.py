"""`holdfast protect` and `holdfast unprotect`."""

from __future__ import annotations

import click

from holdfast_agent.wire.messages import PointRetention, RetainedPoint, RetainPoint
from holdfast_manager.catalog.values import PointEntryRow
from holdfast_manager.reports.times import moment

from .app import App, pass_app
from .approving import require_approval
from .commands import Command
from .dates import parse_date
from .naming import chosen_point

_vm_option = click.option("--vm", help='With "latest": of which VM.')


@click.command(
    cls=Command, examples=("holdfast protect 3f2a1b0c", "holdfast protect latest --vm web --until 2027-12-31")
)
@click.argument("point", metavar="POINT")
@click.option("--until", metavar="DATE", help="2027-12-31 (to the end of that day, UTC), or 2027-12-31T18:00+01:00.")
@_vm_option
@pass_app
def protect(app: App, point: str, until: str | None, vm: str | None) -> None:
    """Protect a restore point from pruning.

    Without --until it stays until `unprotect`. With --until nobody can prune it before that date, whatever rights they
    have here: the repository's host refuses. That date can be put off later, never brought forward.
    """
    row = chosen_point(app.catalog, point, vm)
    wanted = parse_date(until, "--until", end_of_day=True) if until is not None else None
    if wanted is not None and wanted <= row.retained_until:
        app.out.note(f"It is kept until {moment(row.retained_until)} already; that cannot be shortened")
    now = _retain(app, row, wanted or 0.0, hold=True if wanted is None else None)
    text = f"until {moment(now.until)}; nobody can prune it before" if wanted is not None else "until `unprotect`"
    app.out.result({"point": row.sid, "retained": now}, f"Protected {row.sid[:12]} of {row.vm_name} {text}")


@click.command(cls=Command, examples=("holdfast unprotect 3f2a1b0c",))
@click.argument("point", metavar="POINT")
@_vm_option
@pass_app
def unprotect(app: App, point: str, vm: str | None) -> None:
    """Lift the protection of a restore point. A date until which it is kept stays in force."""
    row = chosen_point(app.catalog, point, vm)
    require_approval(app, [f"protection of point {row.sid} of {row.vm_name} in {row.repository}"])
    now = _retain(app, row, 0.0, hold=False)
    rest = f"; it is kept until {moment(now.until)} all the same" if now.until else ""
    app.out.result({"point": row.sid, "retained": now}, f"{row.sid[:12]} of {row.vm_name} is not protected now{rest}")


def _retain(app: App, row: PointEntryRow, until: float, hold: bool | None) -> RetainedPoint:
    """Ask the repository, which enforces it; then remember what holds."""
    from holdfast_manager.enrolment.points import asking

    path = app.catalog.repositories.get(row.repository).path
    with asking(app.catalog, row.repository, app.keys) as ask:
        reply = ask(RetainPoint(repository=path, sid=row.sid, until=until, hold=hold), PointRetention)
    app.catalog.points.set_retention(row.sid, reply.retained.until, reply.retained.hold)
    return reply.retained
