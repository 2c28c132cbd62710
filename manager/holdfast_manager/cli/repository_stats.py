"""`holdfast repository stats`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import click
import msgspec

from holdfast_agent.errors import UsageError
from holdfast_agent.wire.messages import Sizes, StatisticsEnded
from holdfast_manager.reports.statistics_text import compression_ratio, dedup_ratio, statistics_text, totals_text

from .app import App, pass_app
from .commands import Command
from .members import in_each, repository_or_group
from .naming import in_repository


@click.command(
    cls=Command,
    examples=(
        "holdfast repository stats main",
        "holdfast repository stats main --points",
        "holdfast repository stats pool",
        "holdfast repository stats main --point 3f2a1b0c",
    ),
)
@repository_or_group
@click.option("--points", "with_points", is_flag=True, help="Show each restore point, too.")
@click.option("--point", "points", multiple=True, metavar="POINT", help="Show this restore point (repeatable).")
@pass_app
def stats(app: App, name: str, with_points: bool, points: tuple[str, ...]) -> int:
    """What a repository, its VMs and its restore points take; reads all block trees.

    Each block counts for the oldest restore point that has it, so that the parts add up to the whole. "frees" is what
    pruning a restore point, or all of a VM's, would free after garbage collection.
    """
    from holdfast_manager.sessions.counting import count

    if with_points and points:
        raise UsageError(reason="--points shows all restore points; --point names some")
    wanted = [in_repository(app.catalog, name, point) for point in points]

    def tell(member: str) -> int:
        sids = tuple(row.sid for row in wanted if row.repository == member)
        found = count(app.catalog, member, sids, app.keys, app.settings.timing)
        rows = {row.sid: row for row in app.catalog.points.list(repository=member, limit=1 << 30)}
        app.out.result(
            _document(member, found), lambda: statistics_text(member, found, rows, with_points or bool(points))
        )
        return 0

    return in_each(app, name, tell, {row.repository for row in wanted} or None, partial(_total, name))


def _document(name: str, found: StatisticsEnded) -> dict[str, Any]:
    return {
        "repository": name,
        "total": _sizes(found.total),
        "packs_bytes": found.packs_bytes,
        "vms": [msgspec.to_builtins(vm) | {"sizes": _sizes(vm.sizes)} for vm in found.vms],
        "points": [{"sid": point.sid, "sizes": _sizes(point.sizes)} for point in found.points],
        "left_off": found.left_off,
    }


def _total(group: str, members: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """Blocks are shared within a repository, never between two: what the members take adds up."""
    total = Sizes(**{each: sum(member["total"][each] for member in members) for each in Sizes.__struct_fields__})
    packs_bytes = sum(member["packs_bytes"] for member in members)
    points = sum(vm["points"] for member in members for vm in member["vms"])
    document = {"total": _sizes(total), "packs_bytes": packs_bytes}
    return document, totals_text(f"Group {group}", total, points, packs_bytes)


def _sizes(sizes: Sizes) -> dict[str, Any]:
    ratios = {"dedup_ratio": dedup_ratio(sizes), "compression_ratio": compression_ratio(sizes)}
    return {**msgspec.to_builtins(sizes), **ratios}
