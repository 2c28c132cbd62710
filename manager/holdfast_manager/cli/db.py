"""`holdfast db …`."""

from __future__ import annotations

import click

from .app import App, pass_app
from .commands import Group


@click.group(cls=Group)
def db() -> None:
    """The configuration database."""


@db.command(examples=("holdfast db migrate",))
@pass_app
def migrate(app: App) -> None:
    """Bring a database that several hosts share to this version's schema.

    Stop all sessions first, and upgrade Holdfast on every host. SQLite databases are migrated by themselves.
    """
    from holdfast_manager.catalog.database import Database, url_of
    from holdfast_manager.catalog.schema import migrate as bring_to_current

    database = Database(url_of(app.settings))
    try:
        if database.is_sqlite:
            app.catalog.agents.list()  # opening it has migrated it, or says why not
        else:
            bring_to_current(database)
        app.out.result({"migrated": database.place}, f"The configuration database at {database.place} is up to date")
    finally:
        database.close()
