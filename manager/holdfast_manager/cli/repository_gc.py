"""`holdfast repository gc`."""

from __future__ import annotations

import click
import msgspec

from holdfast_manager.catalog.values import SessionEntry, SessionKind

from .app import App, pass_app
from .commands import Command
from .running import detach_option, run_in_each


@click.command(cls=Command, examples=("holdfast repository gc main", "holdfast repository gc main --dry-run"))
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Only tell what would be removed.")
@detach_option
@pass_app
def gc(app: App, name: str, dry_run: bool, detach: bool) -> int:
    """Collect garbage: remove what no restore point refers to, beside whatever runs. NAME: a repository or a group."""
    from holdfast_manager.sessions.requests import GcRequest

    def begin(member: str) -> SessionEntry:
        request = GcRequest(repository=member, dry_run=dry_run)
        return app.catalog.sessions.begin(SessionKind.GC, msgspec.to_builtins(request))

    members = [entry.name for entry in app.catalog.groups.behind(name)]
    return run_in_each(app, members, begin, detach, strict=False)
