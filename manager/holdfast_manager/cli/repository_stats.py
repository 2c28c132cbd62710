"""`holdfast repository stats`."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from holdfast_agent.errors import UsageError
from holdfast_agent.wire.messages import Sizes
from holdfast_manager.reports.statistics_text import compression_ratio, dedup_ratio, statistics_text

from .app import App, pass_app
from .commands import Command
from .naming import in_repository


@click.command(
    cls=Command,
    examples=(
        "holdfast repository stats main",
        "holdfast repository stats main --points",
        "holdfast repository stats main --point 3f2a1b0c",
    ),
)
@click.argument("name")
@click.option("--points", "with_points", is_flag=True, help="Show each restore point, too.")
@click.option("--point", "points", multiple=True, metavar="POINT", help="Show this restore point (repeatable).")
@pass_app
def stats(app: App, name: str, with_points: bool, points: tuple[str, ...]) -> None:
    """What a repository, its VMs and its restore points take; reads all block trees.

    Each block counts for the oldest restore point that has it, so that the parts add up to the whole. "frees" is what
    pruning a restore point, or all of a VM's, would free after garbage collection.
    """
    from holdfast_manager.enrolment.statistics import count

    if with_points and points:
        raise UsageError(reason="--points shows all restore points; --point names some")
    sids = tuple(in_repository(app.catalog, name, point).sid for point in points)
    found = count(app.catalog, name, sids, app.keys, app.settings.timing)
    rows = {row.sid: row for row in app.catalog.points.list(repository=name, limit=1 << 30)}
    document = {
        "repository": name,
        "total": _sizes(found.total),
        "packs_bytes": found.packs_bytes,
        "vms": [msgspec.to_builtins(vm) | {"sizes": _sizes(vm.sizes)} for vm in found.vms],
        "points": [{"sid": point.sid, "sizes": _sizes(point.sizes)} for point in found.points],
        "left_off": found.left_off,
    }
    app.out.result(document, lambda: statistics_text(name, found, rows, with_points or bool(points)))


def _sizes(sizes: Sizes) -> dict[str, Any]:
    ratios = {"dedup_ratio": dedup_ratio(sizes), "compression_ratio": compression_ratio(sizes)}
    return {**msgspec.to_builtins(sizes), **ratios}
