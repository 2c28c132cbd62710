"""Installations that versions of the past left behind are gone on with: catalogue, keys, configuration, repositories.

A killed session of theirs lies in each, and processes that work with an old schema keep it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import MetaData, create_engine, select, text

from holdfast_manager.catalog import Catalog, schema
from holdfast_manager.catalog.database import Database, url_of
from holdfast_manager.catalog.errors import CatalogInUse, CatalogOlder
from holdfast_manager.catalog.processes import ProcessIdentity
from holdfast_manager.settings import DatabaseSettings, ManagerSettings
from lab import golden_installation as golden
from lab.golden_installation import Expected
from lab.installation import Installation
from lab.postgresql import PostgresServer

OLDEST = golden.names()[0]
Upgraded = tuple[Installation, Expected]


@pytest.fixture(scope="module", params=golden.names())
def upgraded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgraded]:
    """All that was there then, under the agent and the manager of today."""
    house = Installation(tmp_path_factory.mktemp("upgraded"))
    expected = golden.unpack(request.param, house.home, house.port)
    house.start_agent()
    try:
        yield house, expected
    finally:
        house.stop_agent()


def test_points_of_then_are_restored_and_gone_on_from(upgraded: Upgraded) -> None:
    house, expected = upgraded
    (killed, *_) = house.holdfast("session", "list")["sessions"]
    assert (killed["result"], killed["error"]["code"]) == ("failed", "session_died")
    points = {point["sid"]: point for point in house.holdfast("point", "list")["points"]}
    kept = [sid for sid in expected.points if points[sid]["repository"] == "main"]
    assert len(kept) == 4
    for sid in kept[:2]:  # one of each VM; verifications look at all of them
        restored(house, points[sid], expected.points[sid])
    for repository in golden.REPOSITORIES:
        house.holdfast("repository", "verify", repository, "--level", "2")
        house.holdfast("repository", "gc", repository)

    report = house.run_job(golden.JOB)
    assert {disk["mode"] for disk in report["disks"]} == {"digest"}
    assert report["total"]["sent_bytes"] == 0, "what is there was sent once more"
    assert house.holdfast("service", "show")["obligations"] == []
    new = {point["vm_name"]: point for point in house.holdfast("point", "list")["points"] if point["sid"] not in points}
    for sid in kept[2:]:
        restored(house, new[points[sid]["vm_name"]], expected.points[sid])


def test_what_was_configured_then_holds(upgraded: Upgraded) -> None:
    house, expected = upgraded
    assert house.holdfast("audit", "verify")
    with Catalog.open(ManagerSettings(data_dir=str(house.home / "manager"))) as catalog:
        assert catalog.jobs.get(golden.JOB).schedule is not None
        assert [rule.name for rule in catalog.traffic_rules.list()] == ["wan"]
        assert catalog.points.get(next(iter(expected.points))).held
        token = house.home / golden.TOKEN
        if token.exists():
            assert catalog.users.by_token(token.read_text()).name == "alice"
            assert catalog.jobs.get("offsite").copy is not None


def test_nobody_loses_the_schema_that_he_works_with(tmp_path: Path) -> None:
    """A session of the older version goes on, and its database is brought up to date when it has ended."""
    golden.unpack(OLDEST, tmp_path, 1)
    settings = ManagerSettings(data_dir=str(tmp_path / "manager"))
    with alive() as session:
        with contextlib.closing(sqlite3.connect(settings.catalog_file)) as catalog, catalog:
            told = json.dumps(identity(session.pid))
            catalog.execute("UPDATE sessions SET process = ? WHERE state <> 'ended'", (told,))
        before = settings.catalog_file.read_bytes()
        with pytest.raises(CatalogInUse, match=f"process {session.pid}"):
            Catalog.open(settings)
        assert settings.catalog_file.read_bytes() == before
        with contextlib.closing(sqlite3.connect(settings.catalog_file)) as catalog, catalog:
            catalog.execute("UPDATE sessions SET state = 'ended'")
            catalog.execute("DELETE FROM services")
            catalog.execute("INSERT INTO services VALUES (1, ?, 0)", (told,))
        with pytest.raises(CatalogInUse, match="the service"):
            Catalog.open(settings)
    with Catalog.open(settings) as catalog:
        assert catalog.jobs.get(golden.JOB)


def test_a_migration_that_is_killed_changes_nothing(tmp_path: Path) -> None:
    golden.unpack(OLDEST, tmp_path, 1)
    settings = ManagerSettings(data_dir=str(tmp_path / "manager"))
    with contextlib.closing(sqlite3.connect(settings.catalog_file)) as catalog:
        before = list(catalog.iterdump())
    kill = "import os, signal; from holdfast_manager.catalog import Catalog, schema; whole = schema._upgrade\n"
    kill += "def cut(connection):\n    whole(connection)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    kill += "schema._upgrade = cut\nfrom holdfast_manager.settings import ManagerSettings\n"
    kill += f"Catalog.open(ManagerSettings(data_dir={settings.data_dir!r}))"
    command_line = [sys.executable, "-c", kill]
    assert subprocess.run(command_line, check=False, timeout=60).returncode == -signal.SIGKILL
    with contextlib.closing(sqlite3.connect(settings.catalog_file)) as catalog:
        assert list(catalog.iterdump()) == before
    with Catalog.open(settings) as catalog:
        assert catalog.jobs.get(golden.JOB)


def test_a_shared_database_is_taken_from_no_session(tmp_path: Path, postgres: PostgresServer) -> None:
    """The rows of then on PostgreSQL: nothing by chance, nothing under a session of another host, and then all."""
    golden.unpack(OLDEST, tmp_path, 1)
    name = postgres.database()
    settings = ManagerSettings(data_dir=str(tmp_path / "manager"), database=DatabaseSettings(postgres.url(name)))
    database = Database(url_of(settings))
    try:
        fill_as_then(database, settings.catalog_file)
        with pytest.raises(CatalogOlder, match="db migrate"):
            Catalog.open(settings)
        with pytest.raises(CatalogInUse, match="on elsewhere"):
            schema.migrate(database)
        schema.migrate(database, others_are_dead=True)
        with Catalog.open(settings) as catalog:
            assert catalog.jobs.get(golden.JOB).schedule is not None
            assert len(catalog.points.list()) == 8
            assert catalog.repositories.master_key("main")
    finally:
        database.close()
        postgres.drop(name)


def fill_as_then(database: Database, catalog_file: Path) -> None:
    """Make the schema of then, and put the rows of an SQLite file into it, whose open session is another host's."""
    old, new = create_engine(f"sqlite:///{catalog_file}"), create_engine(database.url)
    with old.connect() as source, new.begin() as target:
        then = source.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        config = Config()
        config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
        config.attributes["connection"] = target
        command.upgrade(config, then)
        here, there = MetaData(), MetaData()
        here.reflect(source)
        there.reflect(target)
        for table in there.sorted_tables:
            rows = [dict(row._mapping) for row in source.execute(select(here.tables[table.name]))]
            if rows and table.name != "alembic_version":
                target.execute(table.insert(), rows)
        sessions = there.tables["sessions"]
        elsewhere = {"host": "elsewhere", "boot_id": "b", "pid": 1, "start_ticks": 1}
        target.execute(sessions.update().where(sessions.c.state != "ended").values(process=elsewhere))
    old.dispose()
    new.dispose()


def restored(house: Installation, point: dict[str, Any], expected: dict[str, str]) -> None:
    """Its disks are bit for bit what they were."""
    for disk, digest in expected.items():
        target = house.out / f"{point['sid']}-{disk}"
        house.restore_disk(point["vm_name"], point["sid"], target, "--disk", disk)
        assert hashlib.sha256(target.read_bytes()).hexdigest() == digest
        target.unlink()


@contextlib.contextmanager
def alive() -> Iterator[subprocess.Popen[bytes]]:
    """A process that works for ever, as far as its name tells; dead after the block."""
    process = subprocess.Popen(["sleep", "600"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def identity(pid: int) -> dict[str, Any]:
    """As a session's row has it."""
    return msgspec.to_builtins(ProcessIdentity.of(pid))
