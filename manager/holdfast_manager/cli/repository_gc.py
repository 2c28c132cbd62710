"""`holdfast repository gc`."""

from __future__ import annotations

from functools import partial

import click
import msgspec

from holdfast_manager.catalog.values import SessionKind

from .app import App, pass_app
from .commands import Command
from .members import in_each, repository_or_group
from .running import detach_option, run_session


@click.command(cls=Command, examples=("holdfast repository gc main", "holdfast repository gc main --dry-run"))
@repository_or_group
@click.option("--dry-run", is_flag=True, help="Only tell what would be removed.")
@detach_option
@pass_app
def gc(app: App, name: str, dry_run: bool, detach: bool) -> int:
    """Collect garbage: remove what no restore point refers to, beside whatever runs."""
    from holdfast_manager.sessions.requests import GcRequest

    def collect(member: str) -> int:
        request = msgspec.to_builtins(GcRequest(repository=member, dry_run=dry_run))
        return run_session(app, partial(app.catalog.sessions.begin, SessionKind.GC, request), detach, strict=False)

    return in_each(app, name, collect)
