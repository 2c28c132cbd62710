"""`holdfast apply`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .app import App, pass_app
from .approving import lowered_retention, require_approval
from .commands import Command

if TYPE_CHECKING:
    from holdfast_manager.declarative.changes import Action, Change
    from holdfast_manager.declarative.document import Document


_GUARDED = ("agent", "repository", "job")


@click.command(
    cls=Command,
    examples=("holdfast apply site.toml --dry-run", "holdfast apply site.toml", "holdfast apply site.toml --prune"),
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Check everything and show what would be done; change nothing.")
@click.option("--prune", is_flag=True, help="Remove what the file's sections do not name. Data is never deleted.")
@pass_app
def apply(app: App, file: Path, dry_run: bool, prune: bool) -> None:
    """Bring agents, servers, repositories and jobs to what a TOML file says.

    The whole file is checked before the first change. Applying a file twice changes nothing the second time. Marks:
    + made, ~ changed, = as it is, - removed. configs/jobs.toml explains every key.
    """
    from holdfast_manager.declarative.document import read_document
    from holdfast_manager.declarative.planning import Planner, apply_changes

    document = read_document(file)
    changes = Planner(document, app.catalog, app.host, app.keys).plan(prune)
    if not dry_run:
        require_approval(app, _deleted(app, document, changes))
        apply_changes(changes)
    shown = {"dry_run": dry_run, "changes": [change.shown() for change in changes]}
    app.out.result(shown, lambda: _text(changes, dry_run))


def _deleted(app: App, document: Document, changes: Sequence[Change]) -> list[str]:
    """What takes approval: all that is backed up or kept no more, and retention that keeps less."""
    from holdfast_manager.declarative.changes import Action

    removed = [each for each in changes if each.action is Action.REMOVE and each.kind in _GUARDED]
    gone = [f"{each.kind} {each.name}" for each in removed]
    return gone + lowered_retention(app, document.jobs.values())


def _text(changes: Sequence[Change], dry_run: bool) -> str:
    lines = []
    for change in changes:
        note = f" ({change.note})" if change.note else ""
        lines.append(f"{change.action.value} {change.kind} {change.name}{note}")
        lines += [f"    {each.key}: {_value(each.old)} -> {_value(each.new)}" for each in change.differences]
    lines.append(_total(Counter(change.action for change in changes), dry_run))
    return "\n".join(lines)


def _total(counts: Counter[Action], dry_run: bool) -> str:
    from holdfast_manager.declarative.changes import Action

    words = {Action.CREATE: "made", Action.CHANGE: "changed", Action.REMOVE: "removed"}
    told = ", ".join(f"{counts[action]} {word}" for action, word in words.items() if counts[action])
    if not told:
        return "Nothing to do: all is as the file says"
    return f"Dry run, nothing was changed; it would be: {told}" if dry_run else f"Applied: {told}"


def _value(value: object) -> str:
    return "(none)" if value is None else json.dumps(value, ensure_ascii=False, default=str)
