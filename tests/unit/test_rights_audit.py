"""The audit log: whatever is done to its rows from outside is found."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import Connection, select, text

from conftest import Clock
from holdfast_agent.errors import Denied, NotFound
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.errors import AuditBroken, SealingKeyUnusable
from holdfast_manager.catalog.moving import copy_catalog
from holdfast_manager.catalog.rights_tables import audit
from holdfast_manager.rights.actor import Actor
from holdfast_manager.rights.roles import Right, Role
from holdfast_manager.rights.values import AuditRecord, UserEntry
from holdfast_manager.settings import ManagerSettings


def record(number: int) -> AuditRecord:
    return AuditRecord(actor="alice", place="api 10.0.0.7", action="job run", target=f"nightly-{number}")


def filled(catalog: Catalog, count: int = 6) -> None:
    for number in range(1, count + 1):
        assert catalog.audit.append(record(number)) == number


@pytest.mark.both_databases
def test_a_log_that_nobody_touched_is_whole_also_after_pruning(catalog: Catalog, clock: Clock) -> None:
    assert catalog.audit.verify().last == 0
    filled(catalog)
    clock.pass_time(100)
    awkward = AuditRecord(actor="ü\0\udc80", place="é", action="x" * 9000, target="🗄", detail='"{}\\')
    catalog.audit.append(awkward)
    mark = catalog.audit.verify().mark
    assert catalog.audit.prune(50) == 6
    assert catalog.audit.prune(50) == 0
    head = catalog.audit.verify(mark)
    assert (head.start, head.last) == (6, 8)
    newest, before = catalog.audit.list()
    assert (newest.action, newest.actor, newest.target) == ("audit prune", "service", "6 entries, to number 6")
    assert (before.actor, len(before.action)) == ("ü??", 4096)
    clock.pass_time(100)
    assert catalog.audit.prune(50) == 2
    assert catalog.audit.verify().last == 9


def _sql(statement: str) -> Callable[[Connection], object]:
    return lambda connection: connection.execute(text(statement))


def _swap(connection: Connection) -> None:
    for step in ("number = -3 WHERE number = 3", "number = 3 WHERE number = 4", "number = 4 WHERE number = -3"):
        connection.execute(text(f"UPDATE audit SET {step}"))  # noqa: S608 - constants of this test


def _insert(connection: Connection) -> None:
    row = dict(connection.execute(select(audit).where(audit.c.number == 6)).one()._mapping)
    connection.execute(audit.insert().values(**{**row, "number": 7}))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_sql("UPDATE audit SET actor = 'mallory' WHERE number = 3"), "entry 3 was altered"),
        (_sql("UPDATE audit SET time = time + 1 WHERE number = 1"), "entry 1 was altered"),
        (_sql("UPDATE audit SET concerns = 2 WHERE number = 6"), "entry 6 was altered"),
        (_sql("DELETE FROM audit WHERE number = 3"), "entries 3 to 3 are missing"),
        (_sql("DELETE FROM audit WHERE number = 1"), "entries 1 to 1 are missing"),
        (_sql("DELETE FROM audit WHERE number > 4"), "entries after 4 are missing: the log goes to 6"),
        (_sql("DELETE FROM audit"), "entries after 0 are missing"),
        (_sql("DELETE FROM audit_heads"), "none of the log's"),
        (_sql("UPDATE audit_heads SET last = 5"), "the head of the log was altered"),
        (_sql("UPDATE audit_heads SET start = 2"), "the head of the log was altered"),
        (_swap, "entry 3 was altered"),
        (_insert, "entry 7 was altered, or one before it"),
    ],
)
def test_every_kind_of_damage_is_found(catalog: Catalog, damage: Callable[[Connection], object], told: str) -> None:
    filled(catalog)
    catalog.audit.verify()
    with catalog.database.writing() as connection:
        damage(connection)
    with pytest.raises(AuditBroken, match=told):
        catalog.audit.verify()
    catalog.audit.append(record(0))  # what goes on is written down still, and does not heal the log
    with pytest.raises(AuditBroken):
        catalog.audit.verify()


def test_an_older_copy_of_the_whole_log_is_found_by_a_mark(catalog: Catalog) -> None:
    filled(catalog, 3)
    with catalog.database.reading() as connection:
        heads = dict(connection.execute(text("SELECT * FROM audit_heads")).one()._mapping)
    catalog.audit.append(record(4))
    mark = catalog.audit.verify().mark
    with catalog.database.writing() as connection:
        connection.execute(text("DELETE FROM audit WHERE number = 4"))
        connection.execute(text("UPDATE audit_heads SET last = :last, last_seal = :last_seal, seal = :seal"), heads)
    catalog.audit.verify()  # this is what a seal alone cannot tell
    with pytest.raises(AuditBroken, match="entry 4 is not what it was"):
        catalog.audit.verify(mark)


def test_without_its_key_nothing_is_proved_and_nothing_written(
    catalog: Catalog, manager_settings: ManagerSettings
) -> None:
    filled(catalog)
    manager_settings.sealing_key_file.write_bytes(bytes(32))
    with Catalog.open(manager_settings) as other, pytest.raises(AuditBroken, match="another key"):
        other.audit.verify()
    manager_settings.sealing_key_file.unlink()
    with Catalog.open(manager_settings) as other, pytest.raises(SealingKeyUnusable):
        other.audit.append(record(7))


def test_an_act_is_told_when_it_begins_and_how_it_ended(catalog: Catalog) -> None:
    actor = Actor.service()
    with catalog.audit.act(actor, "a"):
        assert catalog.audit.list()[0].outcome == "began"
    with pytest.raises(NotFound), catalog.audit.act(actor, "b"):
        raise NotFound(kind="job", name="x")
    with pytest.raises(ZeroDivisionError), catalog.audit.act(actor, "c"):
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), catalog.audit.act(actor, "d"):
        raise KeyboardInterrupt
    ends = [(entry.action, entry.outcome, entry.concerns) for entry in catalog.audit.list() if entry.concerns]
    assert ends == [("d", "interrupted", 7), ("c", "internal_error", 5), ("b", "not_found", 3), ("a", "done", 1)]


@pytest.mark.both_databases
def test_many_at_once_make_one_chain(catalog: Catalog) -> None:
    threads = [threading.Thread(target=lambda: [catalog.audit.append(record(0)) for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert catalog.audit.verify().last == 20


@pytest.mark.both_databases
def test_a_copied_catalogue_has_the_same_log(catalog: Catalog, manager_settings: ManagerSettings, tmp_path) -> None:
    filled(catalog)
    mark = catalog.audit.verify().mark
    copy = ManagerSettings(data_dir=str(tmp_path / "copy"))
    with Catalog.create(copy) as other:
        copy.sealing_key_file.write_bytes(manager_settings.sealing_key_file.read_bytes())
        copy_catalog(catalog.database, other.database)
    with Catalog.open(copy) as other:
        assert other.audit.verify(mark).last == 6


def test_rights_are_asked_with_a_reason() -> None:
    viewer = Actor.of(UserEntry(name="eve", roles=(Role.VIEWER,)), "web 10.0.0.9")
    with pytest.raises(Denied, match=r"eve may not do job run: it takes the right to operate, which .* operator has"):
        viewer.require(Right.OPERATE, "job run")
