"""Where a command meets the rule of four eyes: after it knows what would go, and before anything goes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

from holdfast_manager.catalog.values import JobSpec
from holdfast_manager.retention.policy import shortened
from holdfast_manager.rights.values import AuditRecord

from .app import App
from .commands import path_of


def require_approval(app: App, targets: Sequence[str]) -> None:
    """``targets`` say all of what the command would delete or lower, for who decides and as what the grant is for.

    Nothing happens where approvals are not required, or there is nothing to delete. Raises ``ApprovalNeeded``.
    """
    if not targets:
        return
    action = " ".join(path_of(click.get_current_context()))
    number = app.catalog.approvals.pass_or_ask(app.actor, action, sorted(targets))
    if number is not None:
        actor = app.actor
        record = AuditRecord(actor=actor.name, place=actor.place, action="approval used", target=str(number))
        app.catalog.audit.append(record)


def lowered_retention(app: App, specs: Iterable[JobSpec]) -> list[str]:
    """What of the jobs' retention would keep less than it does now: of jobs that are there, or of points that an
    earlier job of the name has left. Nothing where approvals are not required: nobody needs to know."""
    if not app.catalog.approvals.required():
        return []
    present = {each.name: each.retention for each in app.catalog.jobs.list()}
    found: list[str] = []
    for spec in specs:
        if spec.name in present:
            lower = shortened(present[spec.name], spec.retention)
            found += [f"retention of job {spec.name}: {each}" for each in lower]
        elif app.catalog.points.list(job=spec.name, limit=1):
            found.append(f"a new job {spec.name} rules the points of an earlier one: {spec.retention}")
    return found
