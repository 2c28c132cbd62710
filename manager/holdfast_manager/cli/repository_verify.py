"""`holdfast repository verify`."""

from __future__ import annotations

from functools import partial

import click
import msgspec

from holdfast_manager.catalog.values import SessionKind

from .app import App, pass_app
from .budgets import budget_of
from .commands import Command
from .members import in_each, repository_or_group
from .naming import in_repository
from .running import detach_option, run_session


@click.command(
    cls=Command,
    examples=(
        "holdfast repository verify main",
        "holdfast repository verify main --level 2",
        "holdfast repository verify main --level 2 --point 3f2a1b0c",
        "holdfast repository verify main --older-than 30d --max-duration 2h",
        "holdfast repository verify main --level 2 --sample 5",
    ),
)
@repository_or_group
@click.option(
    "--level", type=click.IntRange(0, 2), default=1, show_default=True,
    help="0: all is there. 1: every stored byte by its checksum. 2: every block decrypted and compared with its id.",
)  # fmt: skip
@click.option("--point", "points", multiple=True, metavar="POINT", help="Only this restore point (repeatable).")
@click.option("--proxy", default="", help="The agent that decodes at level 2. Default: any with the role.")
@click.option("--older-than", metavar="TIME", help="Level 1: only packs not found whole for so long, such as 30d.")
@click.option(
    "--max-duration", metavar="TIME", help="Begin nothing new after so long; the next run goes on from there."
)
@click.option(
    "--sample", type=click.FloatRange(0, 100, min_open=True), default=100.0, metavar="PERCENT",
    help="Only so much of the packs (level 1) or blocks (level 2), drawn anew.",
)  # fmt: skip
@detach_option
@pass_app
def verify(
    app: App,
    name: str,
    level: int,
    points: tuple[str, ...],
    proxy: str,
    older_than: str | None,
    max_duration: str | None,
    sample: float,
    detach: bool,
) -> int:
    """Verify a repository.

    Exits with 14 when something is damaged; the report names what is touched.
    Nothing is deleted. Bad blocks are put in quarantine: the next backup of their disks stores them again.
    """
    from holdfast_manager.sessions.requests import VerifyRequest

    if proxy:
        app.catalog.agents.get(proxy)
    rows = [in_repository(app.catalog, name, point) for point in points]
    budget = budget_of(level, older_than, max_duration, sample)

    def check(member: str) -> int:
        sids = tuple(row.sid for row in rows if row.repository == member)
        request = VerifyRequest(repository=member, level=level, points=sids, proxy=proxy, budget=budget)
        begin = partial(app.catalog.sessions.begin, SessionKind.VERIFY, msgspec.to_builtins(request))
        return run_session(app, begin, detach, strict=False)

    return in_each(app, name, check, {row.repository for row in rows} or None)
