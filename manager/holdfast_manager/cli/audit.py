"""`holdfast audit …`."""

from __future__ import annotations

import time

import click

from holdfast_agent.errors import UsageError
from holdfast_agent.model.units import parse_duration
from holdfast_manager.reports.table import table
from holdfast_manager.reports.times import moment
from holdfast_manager.rights.values import BEGAN, AuditEntry

from .app import App, pass_app
from .commands import Group


@click.group(cls=Group)
def audit() -> None:
    """The audit log: who did what, from where, and how it went."""


@audit.command("list", examples=("holdfast audit list", "holdfast audit list --actor alice --since 7d"))
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most so many.")
@click.option("--before", type=click.IntRange(min=1), help="Only entries before this number.")
@click.option("--actor", help="Only what this user, or account of the host, did.")
@click.option("--since", metavar="AGE", help="Only what is not older, such as 7d.")
@pass_app
def list_(app: App, limit: int, before: int | None, actor: str | None, since: str | None) -> None:
    """What was done, the newest first. An act has an entry when it begins and one when it ends."""
    earliest = None if since is None else time.time() - parse_duration(since)
    entries = app.catalog.audit.list(limit, before, actor, earliest)
    app.out.result({"entries": entries}, lambda: _table(entries))


@audit.command(examples=("holdfast audit verify", "holdfast audit verify --mark 120:9f86d0…"))
@click.option("--mark", default="", help="As an earlier run told it: the log must still hold that entry, unchanged.")
@pass_app
def verify(app: App, mark: str) -> None:
    """Prove that no entry was changed, taken out or cut off. Note the mark elsewhere: with it nobody can undo more.

    Exits with 14 when the log is broken.
    """
    if mark and not mark.partition(":")[0].isdigit():
        raise UsageError(reason="a mark is NUMBER:SEAL, as `holdfast audit verify` tells it")
    head = app.catalog.audit.verify(mark)
    entries = head.last - head.start
    text = f"The audit log is whole: {entries} entries, {head.start} pruned before them\nMark: {head.mark}"
    app.out.result({"whole": True, "entries": entries, "pruned": head.start, "mark": head.mark}, text)


def _table(entries: tuple[AuditEntry, ...]) -> str:
    if not entries:
        return "No entries"
    rows = [
        (
            str(entry.number),
            moment(entry.time),
            entry.actor,
            entry.place,
            entry.action,
            entry.target,
            f"{entry.outcome} (of {entry.concerns})" if entry.concerns else entry.outcome,
            entry.detail if entry.outcome == BEGAN else "",
        )
        for entry in entries
    ]
    heads = ("entry", "time", "who", "from", "what", "on", "outcome", "command")
    return table(heads, rows, right=("entry",), fold=("command", "on"))
