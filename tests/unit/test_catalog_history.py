"""Sessions, tasks, events, points and obligations."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from sqlalchemy import text

from holdfast_agent.errors import Locked, NotFound, UsageError
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.ids import new_sid
from holdfast_agent.model.stats import StageTimes, TransferCounters
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.errors import InUse
from holdfast_manager.catalog.events import following
from holdfast_manager.catalog.processes import ProcessIdentity
from holdfast_manager.catalog.sessions import listing
from holdfast_manager.catalog.tables import sessions
from holdfast_manager.catalog.values import (
    EventEntry,
    PointEntryRow,
    PointState,
    SessionKind,
    SessionResult,
    SessionState,
    TaskEntry,
)

pytestmark = pytest.mark.both_databases


def test_a_session_lives_from_begin_to_end(stocked: Catalog, clock) -> None:
    begun = stocked.sessions.begin_job("web")
    assert (begun.state, begun.result, begun.job, begun.created) == (
        SessionState.STARTING,
        SessionResult.NONE,
        "web",
        clock.now,
    )
    clock.pass_time(2)
    adopted = stocked.sessions.adopt(begun.id)
    assert (adopted.state, adopted.started) == (SessionState.RUNNING, clock.now)
    assert adopted.process == ProcessIdentity.current()
    assert not stocked.sessions.stop_requested(begun.id)
    stocked.sessions.request_stop(begun.id)
    assert stocked.sessions.stop_requested(begun.id)
    assert stocked.sessions.get(begun.id).state is SessionState.STOPPING
    error = NotFound(kind="VM", name="x").to_record()
    clock.pass_time(3)
    ended = stocked.sessions.end(begun.id, SessionResult.CANCELLED, error)
    assert (ended.state, ended.result, ended.ended, ended.error) == (
        SessionState.ENDED, SessionResult.CANCELLED, clock.now, error,
    )  # fmt: skip
    assert stocked.sessions.end(begun.id, SessionResult.SUCCESS) == ended  # the first end holds
    with pytest.raises(Locked, match="ended"):
        stocked.sessions.adopt(begun.id)


def test_one_session_per_job_but_any_number_of_restores(stocked: Catalog) -> None:
    first = stocked.sessions.begin_job("web")
    with pytest.raises(Locked, match=f"job 'web' is in use by session {first.id}"):
        stocked.sessions.begin_job("web")
    restores = [stocked.sessions.begin(SessionKind.RESTORE, {"point": "ab"}) for _ in range(2)]
    assert [entry.spec for entry in restores] == [{"point": "ab"}] * 2
    stocked.sessions.end(first.id, SessionResult.SUCCESS)
    assert stocked.sessions.begin_job("web").id > first.id
    with pytest.raises(NotFound):
        stocked.sessions.begin_job("wbe")


def test_one_copy_into_a_repository_at_a_time(stocked: Catalog) -> None:
    first = stocked.sessions.begin_copy("main", {"origin": "near"})
    assert (first.kind, first.job, first.spec) == (SessionKind.COPY, "", {"origin": "near"})
    with pytest.raises(Locked, match=f"copies into main is in use by session {first.id}"):
        stocked.sessions.begin_copy("main", {"origin": "far"})
    stocked.sessions.begin_copy("other", {})
    stocked.sessions.begin_job("web")
    stocked.sessions.end(first.id, SessionResult.SUCCESS)
    assert stocked.sessions.begin_copy("main", {}).id > first.id


def test_sessions_are_listed_newest_first_in_pages(stocked: Catalog) -> None:
    numbers = [stocked.sessions.begin(SessionKind.VERIFY, {}).id for _ in range(5)]
    page = stocked.sessions.list(limit=3)
    assert [entry.id for entry in page] == numbers[:1:-1]
    assert [entry.id for entry in stocked.sessions.list(limit=3, before=page[-1].id)] == numbers[1::-1]
    assert stocked.sessions.list(job="web") == stocked.sessions.list(kind=SessionKind.BACKUP) == ()
    assert [entry.id for entry in stocked.sessions.living()] == numbers


def test_lists_of_many_sessions_need_no_scan_and_no_sort(stocked: Catalog) -> None:
    begun = stocked.sessions.begin_job("web")
    with stocked.database.writing() as connection:
        row = connection.execute(sessions.select().where(sessions.c.id == begun.id)).one()._asdict()
        del row["id"]
        connection.execute(sessions.insert(), [{**row, "job": f"job{n % 100}", "holds": None} for n in range(10_000)])
    for job, kind, before in itertools.product((None, "web"), (None, SessionKind.BACKUP), (None, begun.id + 9000)):
        plan = _plan(stocked, listing(job, kind, before, 50))
        if stocked.database.is_sqlite:
            assert "USE TEMP B-TREE" not in plan
            assert "SEARCH" in plan or (job is kind is before is None and "SCAN sessions" in plan)
        else:
            assert "Sort" not in plan
            assert "Index Scan Backward using" in plan
        assert len(stocked.sessions.list(job, kind, before)) == (50 if job is None else 1)


def test_following_events_uses_the_index(stocked: Catalog) -> None:
    plan = _plan(stocked, following(1, 5, 100))
    if stocked.database.is_sqlite:
        assert "SEARCH events USING" in plan
        assert "TEMP B-TREE" not in plan
    else:
        assert "ix_events_session_id" in plan
        assert "Sort" not in plan


def _plan(catalog: Catalog, query) -> str:
    with catalog.database.reading() as connection:
        compiled = query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
        if catalog.database.is_sqlite:
            return "; ".join(row.detail for row in connection.execute(text(f"EXPLAIN QUERY PLAN {compiled}")))
        # an empty table is scanned whatever indexes it has, unless that is forbidden
        for kind in ("seqscan", "bitmapscan"):
            connection.execute(text(f"SET LOCAL enable_{kind} = off"))
        return "; ".join(connection.scalars(text(f"EXPLAIN {compiled}")))


def test_tasks_keep_their_numbers_and_order(stocked: Catalog) -> None:
    session = stocked.sessions.begin_job("web").id
    plain = TaskEntry(session=session, vm_id="v1", vm_name="web1", disk_id="d0", disk_name="root", state="pending")
    first, second = stocked.tasks.add([plain, msgspec.structs.replace(plain, disk_id="d1")])
    assert first.id < second.id
    done = msgspec.structs.replace(
        second,
        state="done",
        sid=new_sid(),
        attempt=2,
        mode=ChangeMode.DIGEST,
        reason="no change tracking",
        counters=TransferCounters(size_bytes=1 << 42, stages=StageTimes(source_s=1.5)),
        proxy="a",
        error=UsageError(reason="x").to_record(),
    )
    stocked.tasks.update([done])
    assert stocked.tasks.list(session) == (first, done)
    assert stocked.tasks.get(done.id) == done
    with pytest.raises(NotFound):
        stocked.tasks.update([msgspec.structs.replace(first, state="lost"), msgspec.structs.replace(first, id=999)])
    assert stocked.tasks.get(first.id) == first


def test_events_are_followed_without_loss_or_repetition(stocked: Catalog) -> None:
    session, other = (stocked.sessions.begin(SessionKind.VERIFY, {}).id for _ in range(2))
    for batch in range(4):
        stocked.events.append(
            [
                EventEntry(session=s, time=float(batch), kind=f"k{batch}", data={"n": n})
                for n in range(3)
                for s in (session, other)
            ]
        )
    stocked.events.append([])
    seen: list[EventEntry] = []
    while page := stocked.events.after(session, seen[-1].id if seen else 0, limit=5):
        seen.extend(page)
    assert [(event.kind, event.data["n"]) for event in seen] == [(f"k{b}", n) for b in range(4) for n in range(3)]


def test_removing_a_session_takes_its_tasks_and_events_but_not_its_points(stocked: Catalog) -> None:
    session = stocked.sessions.begin_job("web").id
    stocked.events.append([EventEntry(session=session, time=1.0, kind="begun")])
    stocked.tasks.add([TaskEntry(session=session, vm_id="v", vm_name="v", disk_id="d", disk_name="d", state="x")])
    point = _point(session=session)
    stocked.points.add(point)
    with pytest.raises(Locked):
        stocked.sessions.remove(session)
    owed = stocked.obligations.write(session, "lab", "images", "snapshot", {})
    stocked.sessions.end(session, SessionResult.SUCCESS)
    with pytest.raises(InUse, match="1 open obligation"):
        stocked.sessions.remove(session)
    stocked.obligations.strike(owed)
    stocked.sessions.remove(session)
    assert stocked.events.after(session) == stocked.tasks.list(session) == ()
    assert stocked.points.get(point.sid) == msgspec.structs.replace(point, session=None)
    assert stocked.sessions.begin_job("web").id > session  # numbers are never used again


def test_points_are_found_by_the_beginning_of_their_id(stocked: Catalog) -> None:
    one, two = _point(sid="ab12" + "0" * 28), _point(sid="ab12" + "f" * 28)
    stocked.points.add(one)
    stocked.points.add(two)
    stocked.points.add(two)  # idempotent
    assert stocked.points.get("ab12f") == two
    for bad in ("ab12", "ab", "a%_b", ""):
        with pytest.raises(UsageError):
            stocked.points.get(bad)
    with pytest.raises(NotFound):
        stocked.points.get("cd34")


def test_the_history_of_a_vm_is_all_of_its_points_the_newest_first(stocked: Catalog) -> None:
    old, new, foreign = _point(created=1.0), _point(created=2.0), _point(created=3.0, vm_id="other")
    for point in (new, old, foreign):
        stocked.points.add(point)
    assert stocked.points.history("main", "lab", "v1") == (new, old)
    stocked.points.set_state(new.sid, PointState.SUSPECT)
    states = [point.state for point in stocked.points.history("main", "lab", "v1")]
    assert states == [PointState.SUSPECT, PointState.OK]
    assert stocked.points.history("main", "lab", "nobody") == ()
    stocked.points.clear(new.sid)
    assert stocked.points.get(new.sid) == new
    stocked.points.cast_doubt(new.sid, "an audit")
    stocked.points.clear(new.sid)
    doubted = msgspec.structs.replace(new, state=PointState.SUSPECT, doubt="an audit")
    assert stocked.points.get(new.sid) == doubted, "no verification clears what an audit found"
    assert [point.sid for point in stocked.points.list(job="web")] == [foreign.sid, new.sid, old.sid]
    assert [point.sid for point in stocked.points.list(before=2.0)] == [old.sid]


def test_a_rescan_replaces_what_was_remembered_of_a_repository(stocked: Catalog) -> None:
    gone, kept = _point(), _point(created=9.0)
    stocked.points.add(gone)
    stocked.points.replace_all("main", [kept], stocked.points.last_arrival("main"))
    assert stocked.points.list() == (kept,)
    stocked.points.remove(kept.sid)
    stocked.points.remove(kept.sid)
    assert stocked.points.list(repository="main") == ()


def test_a_rescan_leaves_alone_what_came_while_the_repository_was_listed(stocked: Catalog) -> None:
    """One point was committed and remembered after its page had been listed, the other one before."""
    gone, missed, listed = _point(), _point(), _point(stored_bytes=7)
    stocked.points.add(gone)
    before = stocked.points.last_arrival("main")
    for point in (missed, listed):
        stocked.points.add(point)
    stocked.points.replace_all("main", [msgspec.structs.replace(listed, stored_bytes=0)], before)
    assert {point.sid: point for point in stocked.points.list()} == {point.sid: point for point in (missed, listed)}


def test_a_pending_point_is_left_behind_by_a_session_that_is_over(stocked: Catalog) -> None:
    session = stocked.sessions.begin_job("web").id
    pending, remembered, struck = (_point(session=session, stored_bytes=number) for number in (1, 2, 3))
    for point in (pending, remembered, struck):
        stocked.pending_points.write(point)
    stocked.points.add(remembered)
    stocked.pending_points.strike(struck.sid)
    assert stocked.pending_points.left_behind("main") == (), "its session lives and asks for it itself"
    stocked.sessions.end(session, SessionResult.FAILED)
    assert stocked.pending_points.left_behind("main") == (pending,)
    stocked.points.replace_all("main", [_point(), pending], stocked.points.last_arrival("main"))
    assert stocked.pending_points.left_behind("main") == (), "a rescan has found it"
    stocked.points.remove(pending.sid)
    stocked.pending_points.write(pending)
    stocked.sessions.remove(session)
    assert stocked.pending_points.left_behind("main") == (msgspec.structs.replace(pending, session=None),)


def test_obligations_stay_until_struck_off(stocked: Catalog, clock) -> None:
    session = stocked.sessions.begin_job("web").id
    first = stocked.obligations.write(session, "lab", "images", "snapshot", {"id": "s1"})
    second = stocked.obligations.write(session, "lab", "images", "freeze", {"vm": "v1"})
    stocked.obligations.failed(first, RuntimeError("host away"))
    assert [entry.id for entry in stocked.obligations.open_of(session=session)] == [second, first]
    owed = stocked.obligations.open_of(server="lab")[1]
    assert (owed.attempts, owed.last_error, owed.data, owed.created) == (1, "host away", {"id": "s1"}, clock.now)
    stocked.obligations.strike(first)
    stocked.obligations.strike(first)
    stocked.obligations.failed(first, RuntimeError("late"))
    assert [entry.id for entry in stocked.obligations.open_of()] == [second]
    with pytest.raises(NotFound):
        stocked.obligations.write(session, "labb", "images", "snapshot", {})


def test_pruned_points_are_listed_apart(stocked: Catalog) -> None:
    old, new = _point(created=1.0), _point(created=2.0)
    stocked.points.add(old)
    stocked.points.add(new)
    stocked.points.set_pruned(new.sid, 50.0)
    assert stocked.points.list() == (old,)
    (pruned,) = stocked.points.list(pruned=True)
    assert pruned == msgspec.structs.replace(new, undo_until=50.0)
    assert stocked.points.history("main", "lab", "v1") == (pruned, old)
    assert stocked.points.get(new.sid, pruned=True) == pruned
    with pytest.raises(NotFound):
        stocked.points.get(new.sid)
    stocked.points.forget_pruned("main", 50.0)
    stocked.points.set_pruned(new.sid, None)
    assert stocked.points.get(new.sid) == new
    stocked.points.set_pruned(new.sid, 49.0)
    stocked.points.forget_pruned("other", 50.0)
    assert stocked.points.list(pruned=True)
    stocked.points.forget_pruned("main", 50.0)
    assert stocked.points.list(pruned=True) == ()
    assert stocked.points.list() == (old,)


def test_what_is_learned_of_a_point_is_kept(stocked: Catalog) -> None:
    point = _point()
    stocked.points.add(point)
    stocked.points.set_verified(point.sid, 7.0)
    stocked.points.set_retention(point.sid, 9.0, True)
    stocked.points.set_verified(new_sid(), 7.0)  # one that is not remembered
    known = msgspec.structs.replace(point, verified=7.0, retained_until=9.0, held=True)
    assert stocked.points.list() == (known,)


def _point(**change) -> PointEntryRow:
    values = {
        "sid": new_sid(), "repository": "main", "server": "lab", "job": "web", "vm_id": "v1", "vm_name": "web1",
        "created": 5.0, "size_bytes": 1 << 40,
    }  # fmt: skip
    return PointEntryRow(**(values | change))
