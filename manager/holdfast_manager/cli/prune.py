"""`holdfast prune`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from holdfast_manager.reports.retention_text import pruning_text

from .app import App, pass_app
from .approving import require_approval
from .commands import Command

if TYPE_CHECKING:
    from holdfast_manager.enrolment.points import Ask
    from holdfast_manager.enrolment.pruning import JudgedVm, Pruned


@click.command(
    cls=Command,
    examples=("holdfast prune --dry-run", "holdfast prune --job nightly", "holdfast prune --vm web --repository main"),
)
@click.option("--job", help="Points made by this job only.")
@click.option("--vm", help="Points of the VM with this name only.")
@click.option("--repository", help="In this repository or group only; of a member: in its group.")
@click.option("--dry-run", is_flag=True, help="Show what would be pruned and why the others stay; change nothing.")
@pass_app
def prune(app: App, job: str | None, vm: str | None, repository: str | None, dry_run: bool) -> None:
    """Prune the restore points that the retention of their job does not keep.

    Sessions do the same at their end. Pruned points are hidden at once; `holdfast point undo-prune` gives them back
    until the undo window is over. `holdfast repository gc` then frees their space. Never pruned are: the newest points
    up to the minimum, the last verified one, protected and immutable ones, and those of jobs that are gone.
    """
    from holdfast_manager.enrolment.points import asking
    from holdfast_manager.enrolment.pruning import Pruned, Scope, judge
    from holdfast_manager.enrolment.pruning import prune as carry_out

    if job is not None:
        app.catalog.jobs.get(job)
    scope = Scope(job=job, vm_name=vm)
    done: list[Pruned] = []
    now = time.time()
    with ExitStack() as connections:
        plans: list[tuple[dict[str, Ask], tuple[JudgedVm, ...]]] = []
        for names in _repositories(app, scope.job, scope.vm_name, repository):
            asks = {name: connections.enter_context(asking(app.catalog, name, app.keys)) for name in names}
            plans.append((asks, judge(app.catalog, asks, scope, now)))
        judged = [vm for _, found in plans for vm in found]
        if not dry_run:
            require_approval(app, _targets(judged))
        for asks, found in plans:
            for name, ask in asks.items():
                here = [each for each in found if each.repository == name]
                done.append(Pruned() if dry_run else carry_out(app.catalog, name, here, ask, now))
    for refusal in [refusal for each in done for refusal in each.refused]:
        app.out.warning(refusal.error.message)
    app.out.result(_document(judged, done, dry_run), lambda: pruning_text(judged, done, dry_run))


def _targets(judged: Sequence[JudgedVm]) -> list[str]:
    """Each point that would go."""
    return [
        f"point {decision.sid} of {vm.vm_name} in {vm.repository}"
        for vm in judged
        if vm.policy is not None
        for decision in vm.doomed
    ]


def _repositories(app: App, job: str | None, vm: str | None, repository: str | None) -> list[list[str]]:
    """Those in which the catalogue knows points in scope; members of a group stand together. Others may be away."""
    if repository is not None:
        entries = app.catalog.groups.behind(repository)
        entries = app.catalog.groups.behind(entries[0].member_of or repository)
    else:
        known = {row.repository for row in app.catalog.points.list(job=job, vm_name=vm, limit=1 << 30)}
        entries = tuple(entry for entry in app.catalog.repositories.list() if entry.name in known)
    together: dict[str, list[str]] = {}
    for entry in entries:
        together.setdefault(entry.member_of or entry.name, []).append(entry.name)
    return [together[name] for name in sorted(together)]


def _document(judged: list[JudgedVm], done: list[Pruned], dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "vms": judged,
        "to_prune": sum(len(vm.doomed) for vm in judged),
        "pruned": [sid for each in done for sid in each.sids],
        "refused": [refusal for each in done for refusal in each.refused],
        "undo_until": min((each.undo_until for each in done if each.undo_until is not None), default=None),
    }
