"""`holdfast db …`."""

from __future__ import annotations

from pathlib import Path

import click

from holdfast_agent.errors import UsageError
from holdfast_manager.reports.sentences import counted

from .app import App, pass_app
from .commands import Group


@click.group(cls=Group)
def db() -> None:
    """The configuration database."""


@db.command(examples=("holdfast db migrate", "holdfast db migrate --to /etc/holdfast/manager-postgresql.toml"))
@click.option(
    "--to", "target", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
    help="Copy everything into the empty database that this configuration file of a manager names.",
)  # fmt: skip
@click.option(
    "--others-are-dead", is_flag=True,
    help="Sessions of other hosts that have not ended are dead: their hosts are gone.",
)  # fmt: skip
@pass_app
def migrate(app: App, target: Path | None, others_are_dead: bool) -> None:
    """Bring a database that several hosts share to this version's schema; or copy it into another database.

    Stop the service and all sessions first, and upgrade Holdfast on every host: while one of them runs nothing is
    changed. SQLite databases come to a new schema by themselves.

    With --to the whole configuration and history goes from SQLite to PostgreSQL, or back. Afterwards let FILE take
    the place of the configuration file, on every host; the old database stays as it is.
    """
    if target is not None:
        _copy(app, target)
        return
    from holdfast_manager.catalog.database import Database, url_of
    from holdfast_manager.catalog.schema import migrate as bring_to_current

    database = Database(url_of(app.settings))
    try:
        if database.is_sqlite:
            app.catalog.agents.list()  # opening it has migrated it, or says why not
        else:
            bring_to_current(database, others_are_dead)
        app.out.result({"migrated": database.place}, f"The configuration database at {database.place} is up to date")
    finally:
        database.close()


def _copy(app: App, target: Path) -> None:
    from holdfast_manager.catalog.catalog import new_database
    from holdfast_manager.catalog.moving import copy_catalog
    from holdfast_manager.settings import ManagerSettings

    settings = ManagerSettings.load(target)
    if settings.home.resolve() != app.settings.home.resolve():
        reason = f"{target} has another data_dir ({settings.home}): secrets are sealed by the key in this one"
        raise UsageError(reason=reason)
    app.catalog.sessions.reap_dead()
    database = new_database(settings)
    try:
        copied = copy_catalog(app.catalog.database, database)
        rows = counted(sum(copied.values()), "row")
        document = {"from": app.catalog.database.place, "to": database.place, "rows": copied}
        app.out.result(document, f"Copied {rows} to {database.place}; now let {target} be the configuration file")
    finally:
        database.close()
