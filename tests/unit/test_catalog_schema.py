"""Migrations: from nothing, repeated, compared with the tables, refused when they come from the future."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, inspect, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from holdfast_agent.errors import AlreadyExists, ConfigInvalid
from holdfast_manager.catalog import Catalog, schema
from holdfast_manager.catalog.database import Database
from holdfast_manager.catalog.errors import CatalogMissing, CatalogNewer, CatalogOlder, CatalogUnavailable
from holdfast_manager.catalog.tables import metadata
from holdfast_manager.settings import DatabaseSettings, ManagerSettings


@pytest.mark.both_databases
def test_migrations_and_tables_are_the_same(catalog: Catalog) -> None:
    with catalog.database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
        assert inspect(connection).get_foreign_keys("jobs")


def test_the_newest_migration_is_the_one_that_is_asked_for() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [schema.REVISION]
    assert {script.revision for script in scripts.walk_revisions()} == set(schema._KNOWN)


def test_no_number_is_given_twice_after_any_migration(catalog: Catalog) -> None:
    """A migration that makes one of SQLite's tables anew may forget that it counts, and how far."""
    with catalog.database.reading() as connection:
        made = dict(connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'table'")).all())
    counting = [table.name for table in metadata.tables.values() if table.dialect_options["sqlite"]["autoincrement"]]
    assert counting
    assert [name for name in counting if "AUTOINCREMENT" not in made[name]] == []


def test_migrating_again_changes_nothing(catalog: Catalog) -> None:
    before = _schema(catalog.database)
    schema.migrate(catalog.database)
    assert _schema(catalog.database) == before


def test_a_failed_migration_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(URL.create("sqlite", database=str(tmp_path / "catalog.db")))
    whole = schema._upgrade

    def cut(connection) -> None:
        whole(connection)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(schema, "_upgrade", cut)
        with pytest.raises(KeyboardInterrupt):
            schema.migrate(database)
    assert _schema(database) == []
    schema.migrate(database)
    assert len(_schema(database)) > 10
    database.close()


def test_points_of_the_first_schema_stay(manager_settings: ManagerSettings) -> None:
    """A catalogue of version 0001 with a point in it, as `holdfast init` made it then."""
    Catalog.create(manager_settings).close()
    database = Database(URL.create("sqlite", database=str(manager_settings.catalog_file)), foreign_keys=False)
    with database.writing() as connection:
        connection.execute(text("DROP INDEX ix_points_repository_arrival"))
        later = ("verified", "held", "retained_until", "undo_until", "origin", "doubt", "boot", "booted", "arrival")
        for column in later:
            connection.execute(text(f"ALTER TABLE points DROP COLUMN {column}"))
        connection.execute(text("DROP TABLE jobs"))
        connection.execute(
            text(
                "CREATE TABLE jobs (name TEXT PRIMARY KEY, server TEXT NOT NULL, repository TEXT NOT NULL, spec JSON,"
                " CONSTRAINT fk_jobs_repository FOREIGN KEY(repository) REFERENCES repositories (name))"
            )
        )
        connection.execute(text("DROP TABLE repositories"))
        connection.execute(
            text(
                "CREATE TABLE repositories (name TEXT PRIMARY KEY, agent TEXT NOT NULL, path TEXT NOT NULL,"
                " repository_id TEXT NOT NULL, encrypted BOOLEAN NOT NULL, slots INTEGER NOT NULL, master_key BLOB)"
            )
        )
        connection.execute(text("DROP TABLE repository_groups"))
        for column in ("job", "weight", "reason", "ahead"):
            connection.execute(text(f"ALTER TABLE slot_requests DROP COLUMN {column}"))
        for column in ("patience_s", "doubts"):
            connection.execute(text(f"ALTER TABLE sessions DROP COLUMN {column}"))
        connection.execute(text("ALTER TABLE servers DROP COLUMN limits"))
        for table in (
            "traffic_rules",
            "preferred_networks",
            "transfers",
            "job_runs",
            "services",
            "slot_rounds",
            "notices",
            "user_tokens",
            "users",
            "audit",
            "audit_heads",
            "approvals",
            "four_eyes",
            "commits",
            "pending_points",
        ):
            connection.execute(text(f"DROP TABLE {table}"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
        connection.execute(
            text(
                "INSERT INTO points (sid, repository, server, job, vm_id, vm_name, created, size_bytes, stored_bytes,"
                " consistency, state) VALUES ('ab', 'main', 'lab', 'web', '1', 'web', 5.0, 7, 3, 'crash', 'ok')"
            )
        )
    database.close()
    with Catalog.open(manager_settings) as catalog:
        (point,) = catalog.points.list()
        assert (point.sid, point.created, point.stored_bytes) == ("ab", 5.0, 3)
        assert (point.verified, point.held, point.retained_until, point.undo_until) == (None, False, 0.0, None)
        assert (point.origin, point.doubt) == (None, "")


def test_each_migration_has_a_number_of_its_own() -> None:
    """Two that were written side by side would both be the newest."""
    folder = Path(schema.__file__).parent / "migrations" / "versions"
    numbers = sorted(path.name[1:5] for path in folder.glob("v*.py"))
    assert numbers == sorted(schema._KNOWN)
    assert numbers[-1] == schema.REVISION


def test_open_brings_an_empty_file_up_to_date(manager_settings: ManagerSettings) -> None:
    manager_settings.home.mkdir()
    (manager_settings.home / "catalog.db").touch()
    with Catalog.open(manager_settings) as catalog:
        assert catalog.jobs.list() == ()


def test_any_path_will_do(tmp_path: Path) -> None:
    settings = ManagerSettings(data_dir=str(tmp_path / "a b%20ü#@c:d?e&f"))
    Catalog.create(settings).close()
    assert {path.name for path in settings.home.iterdir()} == {"catalog.db", "catalog.key"}


def test_open_without_init_says_what_to_do(manager_settings: ManagerSettings) -> None:
    with pytest.raises(CatalogMissing, match="holdfast init"):
        Catalog.open(manager_settings)
    assert not manager_settings.home.exists()


def test_init_twice_is_refused_and_harms_nothing(stocked: Catalog, manager_settings: ManagerSettings) -> None:
    with pytest.raises(AlreadyExists):
        Catalog.create(manager_settings)
    assert stocked.jobs.get("web")


def test_a_newer_catalogue_is_refused(catalog: Catalog, manager_settings: ManagerSettings) -> None:
    with catalog.database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(CatalogNewer, match="9999"):
        Catalog.open(manager_settings)


def test_a_shared_database_is_not_migrated_by_chance(tmp_path: Path) -> None:
    database = Database(URL.create("sqlite", database=str(tmp_path / "catalog.db")))
    with pytest.raises(CatalogOlder, match="db migrate"):
        schema.require_current(database)
    schema.migrate(database)
    schema.require_current(database)
    database.close()


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to have a header" * 40])
def test_a_file_that_is_no_database_is_told(manager_settings: ManagerSettings, content: bytes) -> None:
    manager_settings.home.mkdir()
    (manager_settings.home / "catalog.db").write_bytes(content)
    with pytest.raises(CatalogUnavailable, match="not a database"):
        Catalog.open(manager_settings)


def test_a_bad_url_is_told_without_its_password(tmp_path: Path) -> None:
    settings = ManagerSettings(data_dir=str(tmp_path), database=DatabaseSettings("nosuch://u:geheim@host/db"))
    with pytest.raises(ConfigInvalid) as raised:
        Catalog.open(settings)
    assert "geheim" not in str(raised.value)


def test_sqlite_is_treated_with_care(catalog: Catalog) -> None:
    with catalog.database.reading() as connection:
        pragmas = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "delete", "synchronous": 3, "foreign_keys": 1, "busy_timeout": 30_000}


def test_every_table_is_sql_for_postgresql_too() -> None:
    dialect = postgresql.dialect()
    created = [str(CreateTable(table).compile(dialect=dialect)) for table in metadata.sorted_tables]
    assert all("SERIAL" in sql for sql in created if "id BIG" in sql)
    assert len(created) == len(metadata.tables)


def _schema(database: Database) -> list[tuple[str, str | None]]:
    with database.reading() as connection:
        return [tuple(row) for row in connection.execute(text("SELECT name, sql FROM sqlite_master ORDER BY name"))]
