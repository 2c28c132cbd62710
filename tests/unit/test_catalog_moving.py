"""The whole catalogue to PostgreSQL and back: nothing lost, no number given twice, nothing overwritten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import select, text

from holdfast_agent.errors import Locked
from holdfast_agent.model.ids import new_sid
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.catalog import new_database
from holdfast_manager.catalog.database import Database
from holdfast_manager.catalog.errors import CatalogCopyDiffers, CatalogNotEmpty, CatalogOlder
from holdfast_manager.catalog.moving import copy_catalog
from holdfast_manager.catalog.tables import events, metadata, notices, servers
from holdfast_manager.catalog.values import (
    EventEntry,
    PointEntryRow,
    RepositoryGroup,
    RunState,
    ServerEntry,
    SessionKind,
    SessionResult,
    TaskEntry,
    TrafficRule,
)
from holdfast_manager.cli.main import run
from holdfast_manager.rights.actor import Actor
from holdfast_manager.rights.approval import ApprovalNeeded
from holdfast_manager.rights.roles import Role
from holdfast_manager.rights.values import AuditRecord, UserEntry
from holdfast_manager.settings import DatabaseSettings, ManagerSettings
from lab.postgresql import PostgresServer

ODD = "Übung \U0001f4be \\ ' \" \n ￿"


@pytest.fixture
def full(stocked: Catalog) -> Catalog:
    """A catalogue with something odd in every table that is copied."""
    stocked.servers.add(ServerEntry(name="odd", plugin=ODD, options={"a": [1, 2.5, None, ODD]}), {"password": ODD})
    stocked.groups.add(RepositoryGroup(name="all", members=("main",)))
    stocked.traffic_rules.add(TrafficRule(name="wan", bandwidth_bytes_per_s=1 << 50))
    stocked.traffic_rules.prefer(["10.0.0.0/8"])
    state = RunState(key="k", handled=1.5, retry_at=2.5)
    assert stocked.runs.save({"web": (RunState(), state)})
    session = stocked.sessions.begin_job("web").id
    task = TaskEntry(session=session, vm_id="v", vm_name=ODD, disk_id="d", disk_name="d", state="x", queue_wait_s=0.1)
    stocked.tasks.add([task])
    entries = [EventEntry(session=session, time=n / 3, kind=f"k{n}", data={"nul": "\0", "n": n}) for n in range(2500)]
    stocked.events.append(entries)
    stocked.points.add(
        PointEntryRow(
            sid=new_sid(), repository="main", server="lab", job="web", vm_id="v", vm_name=ODD, created=1.5,
            size_bytes=1 << 60, session=session,
        )
    )  # fmt: skip
    [point] = stocked.points.list()
    stocked.pending_points.write(msgspec.structs.replace(point, sid=new_sid()))
    stocked.obligations.write(session, "lab", "images", "snapshot", {"id": ODD})
    gone = stocked.sessions.begin(SessionKind.VERIFY, {}).id
    for number in (session, gone):
        stocked.sessions.end(number, SessionResult.SUCCESS)
    stocked.sessions.remove(gone)
    stocked.users.add(UserEntry(name="alice", roles=(Role.VIEWER,)))
    stocked.users.add_token("alice", ODD)
    stocked.approvals.require(Actor.service())
    with pytest.raises(ApprovalNeeded):
        stocked.approvals.pass_or_ask(Actor.service(), "prune", [ODD])
    stocked.audit.append(AuditRecord(actor="alice", place="local", action="job run", detail=ODD))
    told = {"session": session, "notifier": "mail", "created": 1.5, "due": 2.5, "attempts": 3, "last_error": ODD}
    with stocked.database.writing() as connection:
        connection.execute(notices.insert().values(told))
    return stocked


@pytest.fixture
def away(postgres: PostgresServer, manager_settings: ManagerSettings) -> Iterator[Database]:
    """An empty database on the server, without tables."""
    name = postgres.database()
    database = new_database(msgspec.structs.replace(manager_settings, database=DatabaseSettings(postgres.url(name))))
    yield database
    database.close()
    postgres.drop(name)


def test_there_and_back_everything_is_the_same(
    full: Catalog, away: Database, manager_settings: ManagerSettings, tmp_path: Path
) -> None:
    copied = copy_catalog(full.database, away)
    assert copied["events"] == 2500
    leases = ("slot_requests", "slot_rounds", "transfers", "services", "commits")
    assert {name for name, count in copied.items() if count == 0} == set(leases)
    url = f"sqlite:///{tmp_path / 'again.db'}"
    home = new_database(msgspec.structs.replace(manager_settings, database=DatabaseSettings(url)))
    assert copy_catalog(away, home) == copied
    assert _content(home) == _content(full.database)
    home.close()
    same_key = msgspec.structs.replace(manager_settings, database=DatabaseSettings(url))
    with Catalog.open(same_key) as back:
        assert back.servers.secret("odd") == {"password": ODD}
        numbers = [catalog.sessions.begin(SessionKind.VERIFY, {}).id for catalog in (full, back)]
        assert numbers == [3, 3], "the number of a session that was removed was given again"


def test_a_target_that_holds_anything_is_refused(full: Catalog, away: Database) -> None:
    copy_catalog(full.database, away)
    with away.writing() as connection:
        for table in reversed(metadata.sorted_tables):
            if table is not servers:
                connection.execute(table.delete())
    with pytest.raises(CatalogNotEmpty, match="rows in servers"):
        copy_catalog(full.database, away)


def test_nothing_is_copied_while_a_session_lives(full: Catalog, away: Database) -> None:
    living = full.sessions.begin_job("web").id
    with pytest.raises(Locked, match=f"session {living}"):
        copy_catalog(full.database, away)
    full.sessions.end(living, SessionResult.SUCCESS)
    copy_catalog(full.database, away)


def test_a_copy_that_came_out_different_is_rolled_back(full: Catalog, away: Database) -> None:
    """A server that alters what it is given, as a trigger or a lossy encoding would."""
    from holdfast_manager.catalog.schema import migrate

    migrate(away)
    with away.writing() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN IF NEW.kind = 'k1234' THEN NEW.kind := 'other'; END IF; RETURN NEW; END $$"
            )
        )
        connection.execute(text("CREATE TRIGGER spoil BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION spoil()"))
    with pytest.raises(CatalogCopyDiffers, match="events"):
        copy_catalog(full.database, away)
    with away.reading() as connection:
        assert connection.execute(select(events)).first() is connection.execute(select(servers)).first() is None


def test_a_source_of_an_older_schema_is_refused(full: Catalog, away: Database) -> None:
    with full.database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0002'"))
    with pytest.raises(CatalogOlder):
        copy_catalog(full.database, away)


def test_the_command_copies_and_says_what_to_do_next(
    full: Catalog,
    manager_settings: ManagerSettings,
    postgres: PostgresServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = postgres.database()
    now, later = tmp_path / "now.toml", tmp_path / "later.toml"
    now.write_text(f'data_dir = "{manager_settings.home}"\n')
    later.write_text(f'{now.read_text()}[database]\nurl = "{postgres.url(name)}"\n')
    assert run(["--config", str(now), "db", "migrate", "--to", str(later)]) == 0
    assert f"now let {later} be" in capsys.readouterr().out
    with Catalog.open(ManagerSettings.load(later)) as moved:
        assert moved.servers.secret("odd") == {"password": ODD}
        assert [session.id for session in moved.sessions.list()] == [1]
    postgres.drop(name)


def _content(database: Database) -> dict[str, list[tuple[object, ...]]]:
    with database.reading() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key.columns))]
            for table in metadata.sorted_tables
        }
