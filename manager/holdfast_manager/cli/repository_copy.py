"""`holdfast repository copy`."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import msgspec

from holdfast_agent.errors import UsageError
from holdfast_agent.model.rules import Compression
from holdfast_agent.model.units import parse_size
from holdfast_manager.catalog.rows import checked

from .app import App, pass_app
from .commands import Command
from .dates import parse_date
from .naming import in_repository
from .running import detach_option, run_session, strict_option

if TYPE_CHECKING:
    from holdfast_manager.sessions.requests import CopyRequest


@click.command(
    cls=Command,
    examples=(
        "holdfast repository copy main offsite",
        "holdfast repository copy main offsite --dry-run",
        "holdfast repository copy main offsite --vm 'web-*' --latest 1 --bandwidth '20 MiB'",
        "holdfast repository copy main offsite --point 3f2a1b0c",
    ),
)
@click.argument("origin", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--vm", "vms", multiple=True, metavar="VM", help="Of VMs with this name or pattern only (repeatable).")
@click.option("--point", "points", multiple=True, metavar="POINT", help="This restore point only (repeatable).")
@click.option("--since", metavar="DATE", help="Not older than 2026-12-31, or 2026-12-31T18:00+01:00.")
@click.option("--latest", type=click.IntRange(min=1), metavar="N", help="Of each VM only the newest N.")
@click.option("--job", default="", metavar="NAME", help="File the copies under this job: its retention rules them.")
@click.option("--proxy", default="", help="The agent between the two. Default: any with the role.")
@click.option("--compression", type=click.Choice([each.value for each in Compression]), help="Default: lz4.")
@click.option("--bandwidth", metavar="RATE", help='Limit of all tasks together per second, such as "50 MiB".')
@click.option("--dry-run", is_flag=True, help="Only show what would be copied.")
@detach_option
@strict_option
@pass_app
def copy(
    app: App,
    origin: str,
    target: str,
    vms: tuple[str, ...],
    points: tuple[str, ...],
    since: str | None,
    latest: int | None,
    job: str,
    proxy: str,
    compression: str | None,
    bandwidth: str | None,
    dry_run: bool,
    detach: bool,
    strict: bool,
) -> int:
    """Copy the restore points of one repository to another that does not have them, the oldest first.

    Each has its own key: blocks are opened, checked by their ids and sealed anew on a proxy. Only what changed from one
    point to the next is read and sent. A copy is a whole restore point with the time of its original; protection and
    retention of the two repositories have nothing to do with each other, but that a copy which was pruned is not made
    again. Suspect points are left out. Exits with 3 when some points could not be copied; the next run goes on.
    """
    from holdfast_manager.sessions.requests import CopyRequest

    if origin == target:
        raise UsageError(reason="FROM and TO are the same repository")
    if points and (vms or since or latest):
        raise UsageError(reason="--point names restore points; --vm, --since and --latest choose among all")
    app.catalog.groups.behind(target)
    app.catalog.groups.behind(origin)
    if proxy:
        app.catalog.agents.get(proxy)
    if job:
        app.catalog.jobs.get(job)
    request = CopyRequest(
        origin=origin,
        repository=target,
        vms=vms,
        points=tuple(in_repository(app.catalog, origin, point).sid for point in points),
        since=parse_date(since, "--since", end_of_day=False) if since else None,
        latest=latest,
        proxy=proxy,
        compression=Compression(compression) if compression else Compression.LZ4,
        bandwidth_bytes_per_s=parse_size(bandwidth) if bandwidth else None,
        job=job,
    )
    request = checked(request, "options")
    if dry_run:
        _show(app, request)
        return 0
    begin = partial(app.catalog.sessions.begin_copy, target, msgspec.to_builtins(request))
    return run_session(app, begin, detach, strict)


def _show(app: App, request: CopyRequest) -> None:
    from holdfast_manager.enrolment.points import Ask, asking
    from holdfast_manager.sessions.copy_plan import plan_copy

    from .copy_text import copy_plan_text

    with ExitStack() as connections:

        def asks(name: str) -> dict[str, Ask]:
            members = [entry.name for entry in app.catalog.groups.behind(name)]
            return {each: connections.enter_context(asking(app.catalog, each, app.keys)) for each in members}

        plan = plan_copy(app.catalog, request, asks(request.origin), asks(request.repository))
    due = [point for chain in plan.chains for point in chain]
    document: dict[str, Any] = {
        "dry_run": True,
        "points": [
            {"sid": point.sid, "vm_name": point.vm_name, "server": point.server, "created": point.created}
            for point in due
        ],
        "present": plan.present,
        "pruned": plan.pruned,
        "suspect": [point.sid for point in plan.suspect],
        "refused": plan.refused,
    }
    app.out.result(document, lambda: copy_plan_text(plan, request.origin, request.repository))
